# /// script
# requires-python = ">=3.11"
# dependencies = ["ethoray"]
#
# [tool.uv.sources]
# ethoray = { path = "..", editable = true }
# ///
"""MABe22's triplets of mice: 5,336 clips of one minute, 13 tasks, the benchmark of BAMS and others.

    python datasets/mabe22_mice.py --raw FOLDER --out mabe22_mice

Animals: three mice in an open field, twelve keypoints each, seen from above at 850 x 850 px, 30 frames per second,
1,800 frames a clip, 89 hours in all. Missing keypoints, (0, 0) in the files, become NaN.
Recording tasks: experiment_day and time_of_day (0 to 1, mean squared error), strain, lights. Frame tasks: approaches,
chases, close, contact, huddles, oral_ear_contact, oral_genital_contact, oral_oral_contact, watching (rules on the
pose). The train file brings labels of chases and lights alone.
Splits, by clip: UserTrain 1,600 clips, SubmissionTrain 2,668, publicTest 533, privateTest 535. The official evaluator
fits on SubmissionTrain, which is our "train", and papers quote scores on publicTest and privateTest together, our
"test"; UserTrain is "user_train". Train an encoder with --split all for the transductive setting (no labels are
seen) and with --split user_train for the inductive one. --four-parts keeps the four as they are.
Get mouse_triplet_train.npy, mouse_triplet_test.npy and mouse_triplets_test_labels.npy from
https://data.caltech.edu/records/8kdn3-95j37 and jax_split.json from round1/metadata of the evaluator,
https://github.com/damaggu/MABe2022. They are read without running anything in them.
Licence: see the record. Citation: Sun et al., MABe22: a multi-species multi-task benchmark for learned
representations of behavior, ICML 2023.
"""

from mabe22_clips import Release

from ethoray.readers import mabe22

release = Release(
    about=__doc__,
    name="mabe22_mice",
    species="mouse",
    fps=30.0,
    skeleton=mabe22.MICE,
    unit="pixel",
    files=("mouse_triplet_train.npy", "mouse_triplet_test.npy", "mouse_triplets_test_labels.npy", "jax_split.json"),
    small=120,
)

if __name__ == "__main__":
    release.main()
