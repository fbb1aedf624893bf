"""A closed-loop trot: what the simulated quadrupeds' legs do at each tick of 20 ms.

Diagonal legs swing together by a clock. A foot lands where the trunk will need it: below the hip, half a stance ahead
at the present speed, further where the robot is too fast (Raibert, Legged Robots That Balance, 1986), shifted to the
next even ground. Between, it goes over the highest ground on its way. Feet that stand carry the wrench that holds the
trunk's height, attitude, heading, place across the lane and speed; the forces go to the motors through the legs'
Jacobians, while servos hold the joints where the wanted trunk over the present feet would have them. A foot that meets
the ground early stands at once, one that misses it reaches down. The controller sees the simulator's true state and the
ground's heights; joint angles and velocities come from physics alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from quadruped_model import FOOT, FORE, LEFT, SUBSTEPS, TIMESTEP, Morphology
from quadruped_terrain import TREAD, Lane

TICK = TIMESTEP * SUBSTEPS
GRAVITY = 9.81
QUICKER, LOWER, HIGHER = 0.45, 0.06, 0.02
"""On the hardest ground: stride frequency up by this share, trunk lower and feet higher by so many m."""
PAIR = np.where(FORE * LEFT > 0, 0.0, 0.5)
"""The clock's offset of each leg: LF and RH against LH and RF."""
CANDIDATES = 0.05 * np.array([0, -1, 1, -2, 2, -3, 3])
"""Shifts of a foothold along the lane that are weighed, m."""
AHEAD = np.array([-0.5, 0.0, 0.5, 1.0])
"""Where ground is looked at before and behind the trunk, to be careful, m."""
WAY = np.linspace(-0.05, 1.05, 12)
SHIFT, SPAN = np.array([0.06, 0.0, 0.55])[:, None, None], np.array([0.84, 0.45, 0.45])[:, None, None]
"""Of a swing: when a foot begins to go ahead, up and down, and for how long."""
SOFT = 1e-3 * np.eye(3)


@dataclass(frozen=True)
class Style:
    """How one robot walks in one recording: speed in m/s, stride frequency in Hz, lengths in m.

    Attributes
    ----------
    duty: share of a stride that a foot stands.
    clearance: of a swinging foot over the highest ground on its way.
    crouch: lower than the posture at rest.
    """

    speed: float
    frequency: float
    duty: float
    clearance: float
    crouch: float


def style(speed: float, robot: Morphology, rng: np.random.Generator) -> Style:
    """A way to walk at that speed; stride frequency grows with it and differs between recordings (5 %)."""
    slower = np.sqrt((0.57 + FOOT) / (robot.thigh + robot.shank + FOOT))  # as pendulums of the legs' length
    return Style(
        speed=speed,
        frequency=float(slower * (1.35 + 0.55 * speed) * np.exp(0.05 * rng.standard_normal())),
        duty=float(0.60 - 0.06 * (speed - 0.5) + 0.01 * rng.standard_normal()),
        clearance=float(0.07 + 0.008 * rng.standard_normal()),
        crouch=float(0.05 + 0.01 * rng.standard_normal()),
    )


def rotation(quaternion: np.ndarray) -> np.ndarray:
    """The matrix that takes the trunk's frame to the world's, from (w, x, y, z)."""
    w, x, y, z = quaternion.tolist()
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def bounded(values: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """Values within limits; what numpy's own is too slow for on a dozen numbers."""
    within: np.ndarray = np.minimum(np.maximum(values, low), high)
    return within


def smoothstep(s: np.ndarray) -> np.ndarray:
    """0 to 1 with still ends."""
    s = bounded(s, 0.0, 1.0)
    step: np.ndarray = s * s * (3 - 2 * s)
    return step


class Trot:
    """The controller of one robot on one lane; ``targets`` is called once a tick, in order."""

    def __init__(self, robot: Morphology, mass: float, lane: Lane, how: Style, friction: float) -> None:
        self.robot, self.mass, self.lane, self.how, self.friction = robot, mass, lane, how, friction
        self.trim, self.look = 1.0, False
        self.phase, self.pace, self.excess = 0.0, 0.0, 0.0
        self.standing = np.ones(4, bool)
        self.lift = np.zeros((4, 3))
        self.goal = np.zeros((4, 3))
        self.top = np.zeros(4)
        self.late = np.zeros(4)
        self.under = np.stack([robot.hips[:, 0], robot.feet(robot.rest)[:, 1], np.zeros(4)], 1)
        self.height = robot.height - how.crouch

    def targets(
        self, place: np.ndarray, attitude: np.ndarray, speed: np.ndarray, joints: np.ndarray, touch: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Angles for the servos and torques for the motors, both (12,).

        ``place`` and the quaternion ``attitude`` are the trunk's, ``speed`` its velocity (world) and angular velocity
        (trunk), ``joints`` the angles (12,), ``touch`` the feet's contact forces in N.
        """
        turn = rotation(attitude)
        angles = joints.reshape(4, 3)
        legs = self.robot.feet(angles)
        arms = legs @ turn.T  # from the trunk's middle, along the world's axes
        feet = place + arms
        self.advance(place, speed[:3], turn, feet, touch > 5.0)
        wanted, wish = self.reference(place, speed, turn)
        aims = self.aims(feet, place, turn)
        stance = (self.standing & (self.late == 0))[:, None]
        trunk = np.where(stance, (aims - wish) @ wanted, (aims - place - TICK * speed[:3]) @ turn)
        goal = self.robot.angles(trunk)
        forces = self.forces(place, speed, turn, arms, touch)
        jacobian = self.robot.jacobian(angles, legs)
        ground = ((forces @ turn)[:, None] @ jacobian)[:, 0]
        p, q, r = speed[3:].tolist()
        carried = legs @ np.array([[0.0, -r, q], [r, 0.0, -p], [-q, p, 0.0]]) - speed[:3] @ turn  # minus spin x legs
        swinging = (self.motion - speed[:3]) @ turn
        rates = np.linalg.solve(jacobian + SOFT, np.where(stance, carried, swinging)[..., None])[..., 0]
        torque = self.robot.damping * bounded(rates, -8, 8) - ground
        return goal.ravel(), bounded(torque, -self.robot.torque, self.robot.torque).ravel()

    def advance(
        self, place: np.ndarray, velocity: np.ndarray, turn: np.ndarray, feet: np.ndarray, contact: np.ndarray
    ) -> None:
        """Move the clock on; feet that should swing lift, those that land or are due stand, others get a goal."""
        how = self.how
        self.caution = float(self.lane.hard[self.lane.index(place[0] + AHEAD)].max())
        self.frequency = how.frequency * (1 + QUICKER * self.caution * self.trim)
        goal = how.speed + (min(how.speed, TREAD * self.frequency) - how.speed) * min(2 * self.caution, 1.0)
        self.pace += TICK * min(max((goal - self.pace) / 0.3, -2.0), 1.0)
        self.excess = min(max(self.excess + 0.4 * TICK * (float(velocity[0]) - self.pace), -0.35), 0.35)
        self.duty = how.duty + 0.08 * self.caution
        self.phase = (self.phase + TICK * self.frequency) % 1.0
        clock = (self.phase + PAIR) % 1.0
        due = clock < self.duty
        swung = np.where(due, 1.0, (clock - self.duty) / (1 - self.duty))
        lifting = ~due & self.standing & (swung < 0.3)
        self.lift[lifting] = feet[lifting]
        self.top[lifting] = -1e3
        landing = due | (~self.standing & contact & (swung > 0.6))
        self.standing = (self.standing & ~lifting) | landing
        self.late = np.where(self.standing & ~contact, self.late + TICK, 0.0)
        self.swung = swung
        free = ~self.standing & (swung < 0.75)
        self.look = not self.look
        if free.any() and (self.look or lifting.any()):
            self.choose(place, velocity, turn, free)

    def choose(self, place: np.ndarray, velocity: np.ndarray, turn: np.ndarray, free: np.ndarray) -> None:
        """Footholds of the legs in the air, and how high they must go."""
        how = self.how
        left = (1 - self.swung) * (1 - self.duty) / self.frequency
        stand = self.duty / self.frequency
        heading = np.arctan2(turn[1, 0], turn[0, 0])
        cos, sin = np.cos(heading), np.sin(heading)
        wish = np.array([self.pace - self.excess, -0.8 * place[1]])
        beyond = velocity[:2] * stand / 2 + 0.5 * np.sqrt(self.height / GRAVITY) * (velocity[:2] - wish)
        beyond = bounded(beyond, -0.28, 0.28)
        under = self.under[:, 0] * turn[2, 2], self.under[:, 1]
        x = place[0] + cos * under[0] - sin * under[1] + velocity[0] * left + beyond[0]
        y = place[1] + sin * under[0] + cos * under[1] + velocity[1] * left + beyond[1]
        row = self.lane.row(y)
        near = x[:, None] + CANDIDATES
        cost = np.abs(CANDIDATES) + 4.0 * self.lane.unfit[row[:, None], self.lane.index(near)]
        x = near[np.arange(4), cost.argmin(1)]
        ground = self.lane.heights[row, self.lane.index(x)]
        spots = np.empty((4, 3))
        spots[:, 0], spots[:, 1], spots[:, 2] = x, y, ground + FOOT
        self.goal[free] = spots[free]
        way = self.lift[:, :1] + (x - self.lift[:, 0])[:, None] * WAY
        highest = self.lane.heights[row[:, None], self.lane.index(way)].max(1)
        top = np.maximum(highest + FOOT, self.lift[:, 2]) + how.clearance + HIGHER * self.caution
        self.top = np.where(free, np.maximum(self.top, top), self.top)

    def aims(self, feet: np.ndarray, place: np.ndarray, turn: np.ndarray) -> np.ndarray:
        """Where the feet should be after this tick, (leg, 3), world; also sets ``motion``, their wanted velocity."""
        swing_time = (1 - self.duty) / self.frequency
        now, soon = self.path(np.stack([self.swung, self.swung + TICK / swing_time]))
        lost = (self.late > 0)[:, None]
        self.motion = np.where(lost, 0.0, (soon - now) / TICK)
        hips = place + self.under @ turn.T
        down = hips + bounded(feet - hips, -0.22, 0.22)
        down[:, 2] = self.lane.heights[self.lane.row(down[:, 1]), self.lane.index(down[:, 0])] + FOOT - 0.02
        return np.where(self.standing[:, None], np.where(lost, down, feet), soon)

    def path(self, s: np.ndarray) -> np.ndarray:
        """Points of the swing, (moment, leg, 3), at progress ``s``, (moment, leg)."""
        along, up, down = smoothstep((s[None] - SHIFT) / SPAN)
        point: np.ndarray = self.lift + (self.goal - self.lift) * along[..., None]
        point[..., 2] = self.lift[:, 2] + (self.top - self.lift[:, 2]) * up - (self.top - self.goal[:, 2]) * down
        return point

    def reference(self, place: np.ndarray, speed: np.ndarray, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The wanted attitude, with the present heading, and the wanted place of the trunk."""
        here = self.lane.column(float(place[0]))
        lean = self.lane.lean[self.lane.column(float(place[0] + 0.1 * speed[0]))]
        self.pitch = -np.arctan(0.9 * lean)
        self.ground = self.lane.smooth[here] - LOWER * self.caution
        heading = np.arctan2(turn[1, 0], turn[0, 0])
        ch, sh, cp, sp = np.cos(heading), np.sin(heading), np.cos(self.pitch), np.sin(self.pitch)
        wanted = np.array([[ch * cp, -sh, ch * sp], [sh * cp, ch, sh * sp], [-sp, 0.0, cp]])
        wish = np.array([place[0], place[1], self.ground + self.height])
        self.fall = self.lane.lean[here] * speed[0]
        self.heading = heading
        self.wanted = wanted
        return wanted, wish + TICK * np.array([speed[0], speed[1], self.fall])

    def forces(
        self, place: np.ndarray, speed: np.ndarray, turn: np.ndarray, arms: np.ndarray, touch: np.ndarray
    ) -> np.ndarray:
        """Forces of the ground on the feet that stand, (leg, 3), N, world: the wrench on the trunk, shared out."""
        mass = self.mass
        bearing = self.standing & ((touch > 2.0) | (self.late < 0.03))
        if not bearing.any():
            return np.zeros((4, 3))
        tilt = turn @ self.wanted.T
        wrong = 0.5 * np.array([tilt[2, 1] - tilt[1, 2], tilt[0, 2] - tilt[2, 0], tilt[1, 0] - tilt[0, 1]])
        wrong[2] += self.heading + 0.3 * place[1]
        spin = turn @ speed[3:]
        inertia = mass * np.array([0.02, 0.06, 0.07])
        pull = np.array(
            [
                4.0 * (self.pace - self.excess - speed[0]),
                4.0 * (-0.8 * place[1] - speed[1]),
                GRAVITY + 60.0 * (self.ground + self.height - place[2]) + 8.0 * (self.fall - speed[2]),
            ]
        )
        torque = inertia * (-np.array([120.0, 120.0, 60.0]) * wrong - np.array([16.0, 16.0, 14.0]) * spin)
        wrench = np.concatenate([mass * pull, torque])
        matrix = np.zeros((6, 4, 3))
        matrix[0, :, 0] = matrix[1, :, 1] = matrix[2, :, 2] = 1.0
        matrix[3, :, 1], matrix[3, :, 2] = -arms[:, 2], arms[:, 1]
        matrix[4, :, 0], matrix[4, :, 2] = arms[:, 2], -arms[:, 0]
        matrix[5, :, 0], matrix[5, :, 1] = -arms[:, 1], arms[:, 0]
        flat = (matrix * bearing[:, None]).reshape(6, 12)
        weight = np.array([1.0, 1.0, 1.0, 4.0, 4.0, 2.0])  # attitude before speed
        flat, wrench = flat * weight[:, None], wrench * weight
        share = flat.T @ np.linalg.solve(flat @ flat.T + 0.02 * np.eye(6), wrench)
        forces: np.ndarray = share.reshape(4, 3)
        forces[:, 2] = bounded(forces[:, 2], 0.0, 1.6 * mass * GRAVITY)
        slip = 0.8 * self.friction * forces[:, 2:]
        forces[:, :2] = bounded(forces[:, :2], -slip, slip)
        return forces
