"""The settings of a run: a section for each part, in `sections`, and how they are filled."""

from igspad_jax.settings.fields import (
    as_json,
    check_name,
    entry,
    filled,
    first_difference,
    settings_help,
)
from igspad_jax.settings.sections import (
    AdamConfig,
    CalibrateConfig,
    DataConfig,
    DetectConfig,
    EvaluateConfig,
    GradientMode,
    InspectorConfig,
    InvertConfig,
    LevenbergConfig,
    MatchConfig,
    Pivot,
    Rates,
    Settings,
    TrainConfig,
    WeightsConfig,
)
