"""The door to PyAV: a program that reads one request on standard input and answers frames on standard output.

Run as a process of its own (see ``ethoray.video``): FFmpeg's errors, crashes and silences stay in it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from math import nan
from typing import Any

import numpy as np

from ethoray.video.answer import MOST_PIXELS, Answer, Damage
from ethoray.video.picture import Painter, turns_of


def opened(path: str, container: str, threads: int) -> tuple[Any, Any]:
    """The container and its first video stream, checked."""
    import av

    av.logging.set_level(None)
    try:
        file = av.open(path, format=container, options={"protocol_whitelist": "file"})
    except (av.FFmpegError, ValueError) as error:
        cut = "; its index (moov) is missing, which is written last: was the recording cut off?"
        raise Damage(f"cannot be opened ({reason(error)})" + (cut if container == "mov" else "")) from error
    if not file.streams.video:
        raise Damage("holds no video")
    stream = file.streams.video[0]
    if not stream.width or not stream.height or stream.codec_context is None:
        raise Damage("its pictures have no size, or no decoder knows them")
    if stream.width * stream.height > MOST_PIXELS:
        raise Damage(f"its pictures claim {stream.width} x {stream.height} pixels")
    stream.codec_context.thread_count = threads
    stream.codec_context.thread_type = "AUTO" if threads > 1 else "SLICE"
    stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(MOST_PIXELS)}
    return file, stream


def reason(error: Exception) -> str:
    """What FFmpeg says, without the file name that it adds."""
    return str(getattr(error, "strerror", None) or error)


def packets(file: Any, stream: Any, answer: Answer | None) -> Iterator[Any]:
    """The stream's packets, the last one empty; damage of the container ends them and is said to who asked."""
    source = file.demux(stream)
    while True:
        try:
            packet = next(source)
        except StopIteration:
            return
        except (OSError, ValueError) as error:
            if answer is not None:
                answer.damaged(f"the file cannot be followed any further ({reason(error)})")
            return
        if packet.is_corrupt and answer is not None:
            answer.damaged("a packet is cut off or damaged")
        yield packet


def probe(answer: Answer) -> dict[str, Any]:
    """What the packets and the first frame say."""
    file, stream = opened(answer.path, answer.request["container"], 1)
    with file:
        times, first = [], None
        for packet in packets(file, stream, answer):
            if first is None:
                first = next(iter(decoded(packet)[0]), None)
            if packet.size and not packet.is_discard:
                times.append(nan if packet.pts is None else float(packet.pts * packet.time_base))
            answer.alive()
        if first is None or not times:
            raise Damage("no frame can be decoded")
        rate = float(stream.average_rate or 0)
        fps, uneven = rhythm(np.sort(times), rate)
        turns, shape = turns_of(first.rotation), (first.width, first.height)
        return {
            "width": shape[turns % 2],
            "height": shape[1 - turns % 2],
            "fps": fps,
            "frames": len(times),
            "promised": int(stream.frames),
            "uneven": uneven,
            "rotation": 90 * turns,
            "codec": stream.codec_context.name,
            "pixels": first.format.name,
        }


def rhythm(times: np.ndarray, rate: float) -> tuple[float, float]:
    """Frames per second, and by how many seconds a frame is at most off a constant rate."""
    if len(times) < 2 or not np.isfinite(times).all() or times[-1] <= times[0]:
        return rate or nan, 0.0
    fps = (len(times) - 1) / float(times[-1] - times[0])
    if rate and abs(fps / rate - 1) < 1e-3:
        fps = rate
    return fps, float(np.abs(times - times[0] - np.arange(len(times)) / fps).max())


def decoded(packet: Any) -> tuple[list[Any], str]:
    """The frames a packet completes, and why there are none."""
    try:
        return packet.decode(), ""
    except EOFError:
        return [], ""
    except (OSError, ValueError) as error:
        return [], reason(error) or type(error).__name__


class Count:
    """Which number a frame has in the order shown.

    Frames are counted while nothing is lost. From the first loss on, numbers are read off the times of all packets:
    then a lost frame keeps its number, and those behind it theirs.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer, self.next = answer, 0
        self.lost = -1  # the first of the frames that are being left out, or -1
        self._times: np.ndarray | None = None

    def lose(self, pts: int | None) -> None:
        """From this frame on nothing is shown."""
        if self._times is None:
            file, stream = opened(self.answer.path, self.answer.request["container"], 1)
            with file:
                source = packets(file, stream, None)
                self._times = np.unique([p.pts for p in source if p.pts is not None and not p.is_discard])
        self.lost = self.number(pts) if self.lost < 0 else self.lost
        self.next += pts is None

    def number(self, pts: int | None) -> int:
        """The number of the frame of this time, in the stream's unit."""
        if self._times is not None and pts is not None:
            return int(np.searchsorted(self._times, pts))
        return self.next


def film(answer: Answer) -> None:
    """Every frame wanted, in the order shown.

    Behind damage nothing is shown until the next key frame: what lies between was predicted from what is lost.
    """
    ask = answer.request
    painter = Painter(ask["size"], ask["grey"], ask["region"])
    file, stream = opened(answer.path, ask["container"], ask["threads"])
    with file:
        rate, count, expected = float(stream.average_rate or 0), Count(answer), int(stream.frames)
        for packet in packets(file, stream, answer):
            expected -= bool(packet.is_discard)
            found, why = decoded(packet)
            if why:
                count.lose(packet.pts)
                answer.damaged(f"frame {count.number(packet.pts)} cannot be decoded ({why})")
            for frame in found:
                index = count.number(frame.pts)
                if index >= answer.end:
                    return
                if sound(frame, index, count) and answer.wants(index):
                    time = frame.time if frame.time is not None else (index / rate if rate else nan)
                    answer.send(index, time, painter.paint(frame))
                answer.alive()
                count.next = index + 1
        if count.lost >= 0:
            answer.damaged(f"frames from {count.lost} left out, up to the end")
        if count.next < expected * (1 if ask["container"] == "mov" else 0.99):  # AVI counts frames that stand still
            answer.damaged(f"it ends after {count.next} frames, its header says {expected}: was it cut off?")
        answer.over(count.next)


def sound(frame: Any, index: int, count: Count) -> bool:
    """Whether a frame can be shown: it is whole, and so is all it was predicted from."""
    if frame.width * frame.height > MOST_PIXELS:
        raise Damage(f"frame {index} claims {frame.width} x {frame.height} pixels")
    if frame.is_corrupt and count.lost < 0:
        count.lose(frame.pts)
        count.answer.damaged(f"frame {index} is damaged")
    if count.lost >= 0 and frame.key_frame and not frame.is_corrupt:
        if index > count.lost:
            count.answer.damaged(f"frames {count.lost} to {index - 1} left out, up to the next key frame")
        count.lost = -1
    return count.lost < 0


def main() -> None:
    """Answer the request on standard input."""
    out = os.fdopen(os.dup(1), "wb", buffering=1 << 20)
    os.dup2(2, 1)  # nothing that a library prints may stand between answers
    request = json.load(sys.stdin)
    answer, shelved = Answer(request, out), request["container"] == "h5"
    tell, show = probe, film
    if shelved:
        from ethoray.video import shelf

        tell, show = shelf.probe, shelf.film
    try:
        if request.get("probe"):
            answer.say(b"P", json.dumps(tell(answer)).encode())
        else:
            show(answer)
            if not answer.sent:
                raise Damage("no frame could be decoded, or none lies in the range asked for")
        answer.say(b"Z")
    except BrokenPipeError:
        os._exit(0)  # nobody listens any more
    except (Damage, OSError, ValueError, MemoryError) as error:  # the errors of PyAV are among them
        answer.say(b"E", (reason(error) or type(error).__name__).encode())


if __name__ == "__main__":
    main()
