"""Two quadruped robots as MuJoCo models written by our own code, with the kinematics of their legs.

Both have a trunk on twelve motors: a hip that swings sideways (HAA, about x), a hip that swings forwards (HFE, about y)
and a knee (KFE, about y) in each leg; fore knees point back, hind knees forward. Sizes and masses are round numbers
near what is public about ANYmal B (30 kg) and C (50 kg); they are no copy of those robots. x is ahead, y left, z up.
Feet are spheres; only feet, trunk ends and ground collide.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

LEGS = ("LF", "LH", "RF", "RH")
JOINTS = tuple(f"{leg}_{joint}" for leg in LEGS for joint in ("HAA", "HFE", "KFE"))
FORE = np.array([1.0, -1.0, 1.0, -1.0])
"""1 for a fore leg, -1 for a hind leg."""
LEFT = np.array([1.0, 1.0, -1.0, -1.0])
"""1 for a left leg, -1 for a right leg."""
TIMESTEP, SUBSTEPS = 0.005, 2
"""Seconds of a physics step, and steps per control tick (50 Hz)."""
FOOT = 0.03
"""Radius of a foot, m."""
Grid = tuple[float, float, np.ndarray]


@dataclass(frozen=True)
class Morphology:
    """One robot: lengths in m, masses in kg, angles in rad, gains in Nm/rad and Nm s/rad.

    Attributes
    ----------
    hip: of the HAA joint ahead of and beside the middle of the trunk; ``offset`` from there to the leg's plane.
    hips: where the HAA joints are in the trunk, (leg, 3).
    posture: sizes of HAA (outwards), HFE and KFE at rest; fore and hind, left and right legs mirror each other.
    trunk_size: half lengths of the trunk.
    """

    name: str
    trunk: float
    trunk_size: tuple[float, float, float]
    hip: tuple[float, float]
    offset: float
    thigh: float
    shank: float
    hip_mass: float
    thigh_mass: float
    shank_mass: float
    posture: tuple[float, float, float]
    stiffness: float = 80.0
    damping: float = 2.0
    torque: float = 80.0
    hips: np.ndarray = field(init=False, repr=False, compare=False)

    @property
    def mass(self) -> float:
        """Of the whole robot, kg."""
        return self.trunk + 4 * (self.hip_mass + self.thigh_mass + self.shank_mass)

    @property
    def rest(self) -> np.ndarray:
        """Joint angles at rest, (leg, 3)."""
        return np.stack([LEFT * self.posture[0], FORE * self.posture[1], -FORE * self.posture[2]], 1)

    @property
    def height(self) -> float:
        """Of the trunk's middle above the ground at rest, m."""
        return FOOT - float(self.feet(self.rest)[0, 2])

    def __post_init__(self) -> None:
        hips = np.stack([FORE * self.hip[0], LEFT * self.hip[1], np.zeros(4)], 1)
        object.__setattr__(self, "hips", hips)

    def feet(self, angles: np.ndarray) -> np.ndarray:
        """Positions of the feet in the trunk's frame, (leg, 3), for joint angles (leg, 3)."""
        a, b, c = angles.T
        x = -self.thigh * np.sin(b) - self.shank * np.sin(b + c)
        z = -self.thigh * np.cos(b) - self.shank * np.cos(b + c)
        y, cos, sin = LEFT * self.offset, np.cos(a), np.sin(a)
        feet = self.hips.copy()
        feet[:, 0] += x
        feet[:, 1] += y * cos - z * sin
        feet[:, 2] += y * sin + z * cos
        return feet

    def jacobian(self, angles: np.ndarray, feet: np.ndarray) -> np.ndarray:
        """How the feet, which are where ``feet`` says, move with the joints, (leg, 3, joint)."""
        a, b, c = angles.T
        x, y, z = (feet - self.hips).T
        cos, sin = np.cos(a), np.sin(a)
        down = z * cos - y * sin  # the foot's height within the leg's plane
        x_c, z_c = -self.shank * np.cos(b + c), self.shank * np.sin(b + c)
        matrix = np.zeros((4, 3, 3))
        matrix[:, 1, 0], matrix[:, 2, 0] = -z, y
        matrix[:, 0, 1], matrix[:, 1, 1], matrix[:, 2, 1] = down, x * sin, -x * cos
        matrix[:, 0, 2], matrix[:, 1, 2], matrix[:, 2, 2] = x_c, -z_c * sin, z_c * cos
        return matrix

    def angles(self, feet: np.ndarray) -> np.ndarray:
        """Joint angles (leg, 3) that bring the feet to (leg, 3), or towards where the legs do not reach."""
        x, y, z = (feet - self.hips).T
        side = LEFT * self.offset
        down = np.sqrt(np.maximum(y * y + z * z - side * side, 1e-4))
        reach = x * x + down * down
        bend = (reach - self.thigh**2 - self.shank**2) / (2 * self.thigh * self.shank)
        c = -FORE * np.arccos(np.minimum(np.maximum(bend, -0.95), 0.995))
        a = np.arctan2(z, y) - np.arctan2(-down, side)
        b = np.arctan2(-x, down) - np.arctan2(self.shank * np.sin(c), self.thigh + self.shank * np.cos(c))
        return np.stack([(a + np.pi) % (2 * np.pi) - np.pi, b, c], 1)


ANYMAL_B = Morphology(
    "anymal_b", 18.0, (0.26, 0.12, 0.09), (0.277, 0.116), 0.10, 0.25, 0.32, 1.3, 1.6, 0.30, (0.0, 0.42, 0.80)
)
ANYMAL_C = Morphology(
    "anymal_c", 30.0, (0.34, 0.15, 0.11), (0.36, 0.13), 0.12, 0.285, 0.35, 2.0, 2.4, 0.50, (0.15, 0.48, 0.95)
)
ROBOTS = (ANYMAL_B, ANYMAL_C)


def xml(robot: Morphology, extra: float, friction: float, ground: str) -> str:
    """The model of a robot with ``extra`` kg in its trunk, as MJCF; ``ground`` is XML of geoms.

    Actuators: twelve position servos, then twelve motors, both in the order of ``JOINTS``.
    """
    (x, y, z), torque = robot.trunk_size, robot.torque
    legs = "".join(_leg(robot, index) for index in range(4))
    servos = "".join(
        f'<position joint="{j}" kp="{robot.stiffness}" kv="{robot.damping}" forcerange="-{torque} {torque}"/>'
        for j in JOINTS
    )
    motors = "".join(f'<motor joint="{j}" ctrlrange="-{torque} {torque}"/>' for j in JOINTS)
    sensors = "".join(f'<touch site="{leg}"/>' for leg in LEGS)
    ends = "".join(
        f'<geom class="touching" type="sphere" size="{z:.3f}" pos="{s * (x - z):.3f} 0 0" rgba=".8 .2 .1 0"/>'
        for s in (1, -1)
    )
    return f"""<mujoco model="{robot.name}">
<compiler angle="radian"/>
<option timestep="{TIMESTEP}" integrator="implicitfast" cone="pyramidal" iterations="8" ls_iterations="8">
<flag eulerdamp="disable"/></option>
<visual><global offwidth="1280" offheight="960"/><map znear=".02"/></visual>
<asset><texture type="skybox" builtin="flat" rgb1=".93 .95 .97" width="8" height="48"/></asset>
<default>
<geom contype="0" conaffinity="0" friction="{friction:.4f} .01 .001" condim="3" solref=".008 1" solimp=".95 .99 .002"/>
<default class="touching"><geom contype="1" conaffinity="2" mass="0"/></default>
<default class="ground"><geom contype="2" conaffinity="1" rgba=".62 .66 .60 1"/></default>
</default>
<worldbody><light pos="0 0 40" dir="-.2 .3 -1" directional="true"/>{ground}
<body name="trunk" pos="0 0 {robot.height + 0.02:.4f}"><freejoint/>
<geom type="box" size="{x} {y} {z}" mass="{robot.trunk + extra:.4f}" rgba=".75 .16 .12 1"/>{ends}{legs}</body>
</worldbody>
<actuator>{servos}{motors}</actuator><sensor>{sensors}</sensor></mujoco>"""


def _leg(robot: Morphology, index: int) -> str:
    leg, left = LEGS[index], LEFT[index]
    hip_x, hip_y, _ = robot.hips[index]
    across = left * robot.offset
    return f"""<body pos="{hip_x:.4f} {hip_y:.4f} 0"><joint name="{leg}_HAA" axis="1 0 0" armature=".02"/>
<geom type="capsule" size=".045" fromto="0 0 0 0 {across:.4f} 0" mass="{robot.hip_mass}" rgba=".2 .2 .22 1"/>
<body pos="0 {across:.4f} 0"><joint name="{leg}_HFE" axis="0 1 0" armature=".02"/>
<geom type="capsule" size=".035" fromto="0 0 0 0 0 {-robot.thigh / 2:.4f}" mass="{robot.thigh_mass}" rgba=".3 .3 .3 1"/>
<geom type="capsule" size=".03" fromto="0 0 0 0 0 {-robot.thigh:.4f}" mass="0" rgba=".3 .3 .33 1"/>
<body pos="0 0 {-robot.thigh:.4f}"><joint name="{leg}_KFE" axis="0 1 0" armature=".02"/>
<geom type="capsule" size=".018" fromto="0 0 0 0 0 {-robot.shank:.4f}" mass="{robot.shank_mass}" rgba=".45 .45 .5 1"/>
<geom class="touching" type="sphere" size="{FOOT}" pos="0 0 {-robot.shank:.4f}" rgba=".1 .1 .1 1"/>
<site name="{leg}" type="sphere" size="{1.3 * FOOT}" pos="0 0 {-robot.shank:.4f}" rgba="0 0 0 0"/>
</body></body></body>"""
