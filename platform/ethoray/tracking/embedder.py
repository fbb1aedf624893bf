"""The model that MLflow loads: a trained encoder that embeds tables and files. Source, never a pickle.

MLflow copies this file beside the checkpoint and runs it with the installed ethoray.
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext


class Embedder(PythonModel):
    """Embeds new recordings as ``ethoray embed`` does.

    The input is a table with the columns frame or time, keypoint, x, y, and where there are such things recording,
    individual, z and confidence; or one with the column path alone, of pose files. Parameters: fps where nothing
    states the frame rate, resample to change another one, individuals for a row an animal, as_is for no cleaning.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Rebuild the encoder from its experiment and checkpoint."""
        from ethoray import record
        from ethoray.experiment import restore

        folder = Path(context.artifacts["checkpoint"]).parent
        self.spec, self.cleaning = record.load(folder)[1], record.cleaning(folder)
        _, self.encoder = restore(folder)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """The rows of every recording, one list of floats a space."""
        from ethoray.unseen.frames import embed_frame

        return embed_frame(self.encoder, self.spec, self.cleaning, model_input, **(params or {}))


mlflow.models.set_model(Embedder())
