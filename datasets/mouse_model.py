"""Three mice that rest, groom, explore and meet: the model behind simulated_mice.py.

A mouse is a semi-Markov machine over eleven states. It moves as a point with a heading, and its body follows as
a chain: the rear lags the front, the tail lags the rear, the paws step in phase with the speed, the head scans,
sniffs and turns to a partner. All recordings of a block advance together, so that one loop over time serves
many; each recording brings its own random numbers and never meets another's. Lengths are pixels, times frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FPS, ARENA, MICE, BURN_IN = 30.0, 850.0, 3, 300
REST, GROOM, WALK, RUN, REAR, APPROACH, CHASE, WATCH, INVESTIGATE, HUDDLE, FLEE = range(11)
CHOSEN = 8  # states a mouse takes up by itself; the rest follow from a meeting
NOSE_REACH = 50.0  # from the centre of the body to the nose

#                  REST GROOM WALK   RUN   REAR APPR  CHASE WATCH INV  HUDDLE FLEE
WEIGHT = np.array([1.0, 0.70, 2.00, 0.45, 0.45, 0.36, 0.10, 0.65])
SECONDS = np.array([2.2, 2.40, 1.80, 1.00, 1.10, 4.00, 1.60, 1.90, 1.20, 4.8, 1.60])
SPEED = np.array([0.0, 0.00, 3.20, 7.50, 0.30, 4.00, 11.0, 0.00, 0.00, 0.0, 9.50])
TURN = np.array([0.001, 0.006, 0.022, 0.018, 0.008, 0.010, 0.012, 0.002, 0.012, 0.001, 0.020])
SCAN = np.array([0.03, 0.10, 0.12, 0.05, 0.16, 0.26, 0.02, 0.08, 0.20, 0.01, 0.02])  # head swing, radians
BREATH = np.array([0.7, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.3, 0.0, 2.0, 0.0])
SCAN_HZ = np.array([0.8, 5.0, 1.3, 1.5, 2.2, 2.4, 1.5, 3.0, 6.0, 0.5, 1.5])


@dataclass(frozen=True)
class Factors:
    """What is hidden in a recording: strain and lights (0 or 1), day of the experiment and time of day in [0, 1]."""

    strain: int
    lights: int
    day: float
    time: float


@dataclass
class Traits:
    """How the mice of one recording tend to act, each (mouse, ...): slow habits, none visible in one frame."""

    weights: np.ndarray
    seconds: np.ndarray
    pace: np.ndarray
    gait: np.ndarray
    scan: np.ndarray
    size: np.ndarray
    sides: np.ndarray


def traits(factors: Factors, rng: np.random.Generator) -> Traits:
    """Habits of a recording's mice: what the factors shift, spread by recording and by mouse."""
    strain, lights = 2 * factors.strain - 1, 2 * factors.lights - 1
    day, time = 2 * factors.day - 1, 2 * factors.time - 1
    shared, own = rng.normal(0, 0.06, 16), rng.normal(0, 0.12, (MICE, 16))
    noise = shared + own
    weights, seconds = np.tile(np.log(WEIGHT), (MICE, 1)), np.tile(np.log(SECONDS), (MICE, 1))
    weights[:, GROOM] += 1.00 * strain + noise[:, 0]
    weights[:, REST] += 0.80 * lights + noise[:, 1]
    weights[:, RUN] += -1.60 * day + noise[:, 2]
    weights[:, REAR] += -1.00 * day + noise[:, 3]
    weights[:, WALK] += 0.90 * time + noise[:, 12]
    weights[:, APPROACH] += -0.15 * strain + noise[:, 4]
    weights[:, WATCH] += 0.55 * lights + noise[:, 5]
    seconds[:, GROOM] += 0.50 * strain + noise[:, 6]
    seconds[:, WALK] += 0.20 * strain + 0.45 * time + noise[:, 7]
    seconds[:, REST] += 0.60 * lights + noise[:, 8]
    return Traits(
        weights=np.exp(weights),
        seconds=np.exp(seconds),
        pace=0.12 * time - 0.35 * day + 0.4 * noise[:, 9],
        gait=0.30 * time + 0.2 * noise[:, 10],
        scan=0.40 * time - 0.15 * strain + 0.4 * noise[:, 11],
        size=np.exp(rng.normal(0, 0.04, MICE)),
        sides=rng.normal(0, 0.01, MICE),
    )


@dataclass(frozen=True)
class Chance:
    """All random numbers of one recording, drawn before it starts: (time, mouse, draw)."""

    uniform: np.ndarray
    normal: np.ndarray


def chance(frames: int, rng: np.random.Generator) -> Chance:
    """Draws for so many frames after the burn-in."""
    shape = (frames + BURN_IN, MICE)
    return Chance(rng.random((*shape, 5), np.float32), rng.standard_normal((*shape, 8), np.float32))


def wrap(angle: np.ndarray) -> np.ndarray:
    """Angles in [-pi, pi)."""
    return np.remainder(angle + np.pi, 2 * np.pi) - np.pi


class Triplets:
    """A block of triplets in motion; every array is (recording, mouse)."""

    TRACE = ("x", "y", "heading", "rear", "tail_1", "tail_2", "head", "speed", "state", "gait", "scan")

    def __init__(self, habits: list[Traits], draws: list[Chance]) -> None:
        names = ("weights", "seconds", "pace", "gait", "scan", "size", "sides")
        self.habit = {name: np.stack([getattr(h, name) for h in habits]) for name in names}
        self.uniform = np.stack([d.uniform for d in draws], 1)
        self.normal = np.stack([d.normal for d in draws], 1)
        first = self.uniform[0].astype(np.float64)
        self.rows = np.arange(len(habits))[:, None]
        self.x, self.y = (150 + (ARENA - 300) * first[..., k] for k in (0, 1))
        self.heading = 2 * np.pi * first[..., 2]
        self.rear, self.tail_1, self.tail_2 = (self.heading.copy() for _ in range(3))
        zero = np.zeros_like(self.x)
        self.head, self.speed, self.turn, self.aim = (zero.copy() for _ in range(4))
        self.pace, self.gait, self.scan = (zero + 1 for _ in range(3))
        self.state, self.partner, self.left = (zero.astype(np.int64) for _ in range(3))
        self.reach, self.bearing = zero + ARENA, zero.copy()

    def run(self) -> dict[str, np.ndarray]:
        """The whole block: name -> float32 (time, recording, mouse), burn-in removed."""
        frames = len(self.uniform)
        trace = {name: np.empty((frames, *self.x.shape), np.float32) for name in self.TRACE}
        for t in range(frames):
            self.decide(t)
            self.meet(t)
            self.steer(t)
            self.move()
            for name, values in trace.items():
                values[t] = getattr(self, name)
        return {name: values[BURN_IN:] for name, values in trace.items()}

    def begin(self, r: np.ndarray, m: np.ndarray, state: np.ndarray | int, t: int) -> None:
        """Start a bout of ``state`` in mice m of recordings r; each bout has its own pace, gait and scanning."""
        n, habit = self.normal[t, r, m], self.habit
        self.state[r, m] = state
        self.left[r, m] = FPS * habit["seconds"][r, m, state] * np.exp(0.45 * n[:, 0]) + 6
        self.pace[r, m] = np.exp(habit["pace"][r, m] + 0.18 * n[:, 1])
        self.gait[r, m] = np.exp(habit["gait"][r, m] + 0.10 * n[:, 2])
        self.scan[r, m] = np.exp(habit["scan"][r, m] + 0.20 * n[:, 3])

    def decide(self, t: int) -> None:
        """Mice whose bout is over choose the next one, and whom it is about."""
        self.left -= 1
        r, m = np.nonzero(self.left <= 0)
        if not r.size:
            return
        u, weights = self.uniform[t, r, m], self.habit["weights"][r, m].copy()
        weights[:, CHASE] *= np.where(self.state[r, m] == INVESTIGATE, 5, 1)
        total = weights.cumsum(-1)
        state = (u[:, :1] * total[:, -1:] > total[:, :-1]).sum(-1)
        self.partner[r, m] = (m + 1 + (u[:, 2] < 0.5)) % MICE
        self.aim[r, m] = np.array([46.0, 32.0, -40.0, 0.0])[(4 * u[:, 3]).astype(int) % 4]
        other = self.partner[r, m]
        away = np.hypot(self.x[r, other] - self.x[r, m], self.y[r, other] - self.y[r, m])
        state = np.where((state == CHASE) & (away > 200), APPROACH, state)
        self.begin(r, m, state, t)
        hunt = state == CHASE
        self.respond(r[hunt], m[hunt], FLEE, t)
        self.left[r[hunt], m[hunt]] = self.left[r[hunt], other[hunt]]

    def respond(self, r: np.ndarray, m: np.ndarray, state: int, t: int) -> None:
        """The partners of mice m take up ``state`` towards them."""
        other = self.partner[r, m]
        self.begin(r, other, state, t)
        self.partner[r, other] = m

    def meet(self, t: int) -> None:
        """Mice that have come up to their partner investigate it or lie down with it."""
        other = self.partner
        ox, oy, oh = self.x[self.rows, other], self.y[self.rows, other], self.heading[self.rows, other]
        dx, dy = ox + self.aim * np.cos(oh) - self.x, oy + self.aim * np.sin(oh) - self.y
        self.reach, self.bearing = np.hypot(dx, dy) - NOSE_REACH, np.arctan2(dy, dx)
        self.offset = ox - self.x, oy - self.y
        r, m = np.nonzero((self.state == APPROACH) & (self.reach < 10))
        if not r.size:
            return
        u = self.uniform[t, r, m, 4]
        met = self.state[r, other[r, m]]
        lie = (u < 0.26) & (met != CHASE) & (met != FLEE) & (met != RUN)
        self.begin(r[~lie], m[~lie], INVESTIGATE, t)
        calm = ~lie & (u > 0.50) & ((met == WALK) | (met == RUN))
        self.respond(r[calm], m[calm], WATCH, t)
        self.begin(r[lie], m[lie], HUDDLE, t)
        self.respond(r[lie], m[lie], HUDDLE, t)
        self.left[r[lie], other[r[lie], m[lie]]] = self.left[r[lie], m[lie]]

    def steer(self, t: int) -> None:
        """Speed, turning and gaze move towards what the state wants."""
        state, n = self.state, self.normal[t]
        wanted = self.pace * SPEED[state]
        slow = np.clip(self.reach / 40, 0.3, 1)
        wanted = np.where((state == APPROACH) | (state == CHASE), wanted * slow, wanted)
        wanted = np.where(state == INVESTIGATE, np.clip(0.15 * self.reach, -0.8, 2.5), wanted)
        self.speed += 0.22 * (wanted - self.speed) + 0.05 * wanted * n[..., 4]
        error = wrap(self.bearing - self.heading)
        directed = (state == APPROACH) | (state == CHASE) | (state == INVESTIGATE)
        turn = directed * np.clip(0.16 * error, -0.22, 0.22)
        turn += (state == FLEE) * np.clip(0.10 * wrap(error + np.pi), -0.2, 0.2)
        turn += 0.04 * (state == HUDDLE) * wrap(self.heading[self.rows, self.partner] - self.heading)
        turn += self.habit["sides"] * self.speed / 4 + self.from_walls() * (~directed & (SPEED[state] > 1))
        self.turn += 0.3 * (turn - self.turn) + TURN[state] * n[..., 5]
        looks = directed | (state == WATCH)
        gaze = np.where(looks, np.clip(error, -0.9, 0.9), 0.0)
        self.head += 0.2 * (gaze - self.head) + 0.15 * SCAN[state] * n[..., 6]

    def from_walls(self) -> np.ndarray:
        """Turning towards the middle of the arena, stronger near a wall."""
        middle = ARENA / 2
        off = np.maximum(abs(self.x - middle), abs(self.y - middle))
        inward = np.arctan2(middle - self.y, middle - self.x)
        return np.clip((off - 250) / 100, 0, 1) * 0.14 * np.clip(wrap(inward - self.heading), -1, 1)

    def move(self) -> None:
        """One frame: step, lie closer, keep apart, and let rear and tail follow."""
        self.heading = self.heading + self.turn
        step_x, step_y = self.speed * np.cos(self.heading), self.speed * np.sin(self.heading)
        dx, dy = self.offset
        away = np.hypot(dx, dy) + 1e-6
        snuggle = (self.state == HUDDLE) * np.clip(0.06 * (away - 42), -0.5, 0.8) / away
        step_x, step_y = step_x + snuggle * dx, step_y + snuggle * dy
        for shift in (1, 2):
            px, py = self.x - np.roll(self.x, shift, 1), self.y - np.roll(self.y, shift, 1)
            apart = np.hypot(px, py) + 1e-6
            push = 0.25 * np.clip(34 - apart, 0, None) / apart
            step_x, step_y = step_x + push * px, step_y + push * py
        self.x = np.clip(self.x + step_x, 65, ARENA - 65)
        self.y = np.clip(self.y + step_y, 65, ARENA - 65)
        self.rear = self.rear + (0.05 + 0.02 * abs(self.speed)) * (self.heading - self.rear)
        self.tail_1 = self.tail_1 + 0.12 * (self.rear - self.tail_1)
        self.tail_2 = self.tail_2 + 0.10 * (self.tail_1 - self.tail_2)
