# /// script
# requires-python = ">=3.11"
# dependencies = ["ethoray"]
#
# [tool.uv.sources]
# ethoray = { path = "..", editable = true }
# ///
"""MABe22's groups of flies: 969 clips of 30 s, 11 places for flies, the many tasks of the benchmark.

    python datasets/mabe22_flies.py --raw FOLDER --out mabe22_flies

Animals: groups of 9 to 11 fruit flies in an arena of 26.7 mm radius, 150 frames per second, 4,500 frames a clip,
8 hours in all. A fly is 24 pairs of numbers: 19 keypoints, then position, orientation, axes and measures of its image.
A place without a fly, NaN in the files, stays NaN.
Recording tasks: which line or condition a clip shows (control, courtship, aggression, 71G01, ...), how light stimulates
("..._offvson", ...), female of each fly. Frame tasks: perframe_aggression, _chase, _courtship, _highfence2, _wingext,
_wingflick of each fly. A task that is called a recording's but changes within a clip becomes a frame task. The second
task called "control" is control_any here; the official evaluator scores the first twice. Average a behaviour's
tasks over flies for the official 50 rows. The train file brings labels of three tasks.
Splits, by clip: UserTrain 426 clips, SubmissionTrain 217 ("train"), publicTest 147 and privateTest 179 ("test");
UserTrain is "user_train". Train an encoder with --split all for the transductive setting (no labels are seen) and
with --split user_train for the inductive one. --four-parts keeps the four as they are.
Get fly_group_train.npy, fly_group_test.npy and fly_groups_test_labels.npy from
https://data.caltech.edu/records/8kdn3-95j37 and flies_split.json from round1/metadata of the evaluator,
https://github.com/damaggu/MABe2022. They are read without running anything in them.
Licence: see the record. Citation: Sun et al., MABe22: a multi-species multi-task benchmark for learned
representations of behavior, ICML 2023.
"""

from mabe22_clips import Release

from ethoray.readers import mabe22

release = Release(
    about=__doc__,
    name="mabe22_flies",
    species="fruit fly",
    fps=150.0,
    skeleton=mabe22.FLIES,
    unit="mm",
    files=("fly_group_train.npy", "fly_group_test.npy", "fly_groups_test_labels.npy", "flies_split.json"),
    small=40,
)

if __name__ == "__main__":
    release.main()
