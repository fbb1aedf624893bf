"use strict";
(() => {
  const data = JSON.parse(document.getElementById("moments").textContent);
  const colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"];
  const scale = [[0, 32, 77], [87, 92, 109], [124, 123, 120], [187, 175, 113], [255, 234, 70]];
  const grey = "#C4C8CC";
  const [, steps, animals, keypoints] = data.shape;
  const bytes = Uint8Array.from(atob(data.clips), (letter) => letter.charCodeAt(0));
  const words = new DataView(bytes.buffer);
  const map = document.getElementById("map"), stage = document.getElementById("stage");
  const choice = document.getElementById("colour"), legend = document.getElementById("key");
  const told = document.getElementById("told"), play = document.getElementById("play");
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const middle = (steps - 1) / 2;
  let chosen = 0, step = middle, timer = null, shownColour = 0;

  const spot = (i) => [24 + (data.points[i][0] / 1000) * (map.width - 48), map.height - 24 - (data.points[i][1] / 1000) * (map.height - 48)];

  function shade(share) {
    const at = Math.max(0, Math.min(1, share)) * (scale.length - 1), low = Math.min(Math.floor(at), scale.length - 2);
    const mixed = scale[low].map((part, i) => Math.round(part + (at - low) * (scale[low + 1][i] - part)));
    return `rgb(${mixed.join(",")})`;
  }

  function painter(colour) {
    if (colour.classes) {
      const two = colour.classes.length === 2;
      return (value) => (value === null || (two && value === 0) ? grey : colours[(two ? 0 : value) % colours.length]);
    }
    const known = colour.values.filter((value) => value !== null), low = Math.min(...known), high = Math.max(...known);
    return (value) => (value === null ? grey : shade((value - low) / (high - low || 1)));
  }

  function shape(context, x, y, kind, size) {
    context.beginPath();
    if (kind === 1) context.rect(x - size * 0.9, y - size * 0.9, 1.8 * size, 1.8 * size);
    else if (kind === 2) { context.moveTo(x, y - 1.2 * size); context.lineTo(x + 1.1 * size, y + size); context.lineTo(x - 1.1 * size, y + size); }
    else context.arc(x, y, size, 0, 2 * Math.PI);
    context.fill();
  }

  function drawMap() {
    const context = map.getContext("2d"), colour = data.colours[shownColour], paint = painter(colour);
    context.fillStyle = "#fff";
    context.fillRect(0, 0, map.width, map.height);
    const order = data.points.map((_, i) => i);
    order.sort((a, b) => (paint(colour.values[a]) === grey ? 0 : 1) - (paint(colour.values[b]) === grey ? 0 : 1) || a - b);
    context.globalAlpha = 0.8;
    for (const i of order) {
      const value = colour.values[i];
      context.fillStyle = paint(value);
      const kind = colour.classes && colour.classes.length > 2 && value !== null ? Math.floor(value / colours.length + value) % 3 : 0;
      shape(context, ...spot(i), kind, 5);
    }
    context.globalAlpha = 1;
    if (chosen < data.points.length) {
      context.strokeStyle = "#000";
      context.lineWidth = 3;
      context.beginPath();
      context.arc(...spot(chosen), 11, 0, 2 * Math.PI);
      context.stroke();
    }
    drawLegend(colour, paint);
  }

  function entry(text, paint) {
    const item = document.createElement("span"), dot = document.createElement("i");
    dot.style.background = paint;
    item.append(dot, text);
    legend.append(item);
  }

  function drawLegend(colour, paint) {
    legend.replaceChildren();
    if (colour.classes) {
      const seen = new Set(colour.values);
      colour.classes.forEach((name, i) => { if (seen.has(i)) entry(name, paint(i)); });
    } else {
      const known = colour.values.filter((value) => value !== null), low = Math.min(...known), high = Math.max(...known);
      [low, (low + high) / 2, high].forEach((value) => entry(Number(value.toPrecision(3)), paint(value)));
    }
    if (colour.values.includes(null)) entry("not labelled", grey);
  }

  function point(clip, at, animal, keypoint) {
    const place = 2 * ((((clip * steps + at) * animals + animal) * keypoints + keypoint) * 2);
    const x = words.getUint16(place, true), y = words.getUint16(place + 2, true);
    return x === data.missing ? null : [16 + (x / 4095) * (stage.width - 32), 16 + (y / 4095) * (stage.height - 32)];
  }

  function drawPose(context, at, strength) {
    context.globalAlpha = strength;
    for (let animal = 0; animal < animals; animal++) {
      context.strokeStyle = context.fillStyle = colours[animal % colours.length];
      context.lineWidth = 4;
      for (const [a, b] of data.bones) {
        const from = point(chosen, at, animal, a), to = point(chosen, at, animal, b);
        if (!from || !to) continue;
        context.beginPath();
        context.moveTo(...from);
        context.lineTo(...to);
        context.stroke();
      }
      for (let keypoint = 0; keypoint < keypoints; keypoint++) {
        const where = point(chosen, at, animal, keypoint);
        if (where) shape(context, ...where, 0, data.bones.length ? 4 : 6);
      }
    }
    context.globalAlpha = 1;
  }

  function drawStage() {
    const context = stage.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, stage.width, stage.height);
    for (const back of [4, 2]) if (step - back >= 0) drawPose(context, step - back, 0.12);
    drawPose(context, step, 1);
    const seconds = (step - middle) / data.clip_fps;
    context.fillStyle = "#5b6066";
    context.font = "22px system-ui, sans-serif";
    context.fillText(`${seconds >= 0 ? "+" : "−"}${Math.abs(seconds).toFixed(1)} s`, 16, stage.height - 16);
    context.fillRect(0, stage.height - 6, (stage.width * step) / (steps - 1), 6);
  }

  function describe() {
    const [recording, frame] = data.places[chosen], clock = (frame / data.fps).toFixed(1);
    const parts = [`${data.recordings[recording]}, ${clock} s`];
    for (const colour of data.colours) {
      if (chosen >= data.points.length || !colour.classes) continue;
      const value = colour.values[chosen];
      if (value === null) continue;
      const plain = colour.classes[value];
      if (colour.classes.length === 2) { if (value === 1) parts.push(plain === "yes" ? colour.name : `${colour.name}: ${plain}`); }
      else parts.push(plain);
    }
    told.textContent = parts.join(" · ");
    told.dataset.moment = String(chosen);
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  }

  function start() {
    stop();
    play.textContent = "Pause";
    timer = setInterval(() => { step = (step + 1) % steps; drawStage(); }, 1000 / data.clip_fps);
  }

  function select(moment, move) {
    chosen = moment;
    step = move ? 0 : middle;
    describe();
    drawMap();
    drawStage();
    if (move) start(); else stop();
  }

  function nearest(x, y) {
    let best = 0, least = Infinity;
    data.points.forEach((_, i) => {
      const [a, b] = spot(i), far = (a - x) ** 2 + (b - y) ** 2;
      if (far < least) { least = far; best = i; }
    });
    return best;
  }

  function towards(dx, dy) {
    const [x, y] = spot(Math.min(chosen, data.points.length - 1));
    let best = chosen, least = Infinity;
    data.points.forEach((_, i) => {
      const [a, b] = spot(i), along = (a - x) * dx + (b - y) * dy, aside = Math.abs((a - x) * dy) + Math.abs((b - y) * dx);
      if (along > 1 && along + 2 * aside < least) { least = along + 2 * aside; best = i; }
    });
    return best;
  }

  data.colours.forEach((colour, i) => choice.add(new Option(colour.name, i)));
  choice.addEventListener("change", () => { shownColour = Number(choice.value); drawMap(); });
  map.addEventListener("click", (event) => {
    const box = map.getBoundingClientRect(), ratio = map.width / box.width;
    select(nearest((event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio), !calm);
  });
  map.addEventListener("keydown", (event) => {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (ways[event.key]) select(towards(...ways[event.key]), !calm);
    else if (event.key === "Enter" || event.key === " ") timer ? stop() : start();
    else return;
    event.preventDefault();
  });
  play.addEventListener("click", () => (timer ? stop() : start()));
  document.querySelectorAll("button[data-moment]").forEach((button) =>
    button.addEventListener("click", () => {
      select(Number(button.dataset.moment), !calm);
      stage.scrollIntoView({ block: "center", behavior: calm ? "auto" : "smooth" });
    }));
  addEventListener("beforeprint", () => { stop(); step = middle; drawStage(); });
  const wanted = /^#moment-(\d+)$/.exec(location.hash);
  select(wanted && Number(wanted[1]) < data.shape[0] ? Number(wanted[1]) : 0, Boolean(wanted) && !calm);
})();
