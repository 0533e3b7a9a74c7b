"""Every right kernel of the zoo, of D~ and fused."""

from __future__ import annotations

from .channels import CHANNELS_SOUND
from .delta_sound import DELTA_SOUND
from .ends import ENDS
from .fused_ends import FUSED_ENDS
from .fused_sound import FUSED_SOUND
from .gate_kernels import GATES_SOUND
from .half_mutants import HALVES_SOUND
from .mamba import MAMBA_SOUND
from .masked import MASKED_SOUND
from .size_kernels import SIZES_SOUND
from .sound import SOUND
from .states import STATES_SOUND

RIGHT = [*SOUND, *ENDS]
FUSED_RIGHT = [
    *FUSED_SOUND,
    *FUSED_ENDS,
    *DELTA_SOUND,
    *CHANNELS_SOUND,
    *GATES_SOUND,
    *STATES_SOUND,
    *MAMBA_SOUND,
    *HALVES_SOUND,
    *MASKED_SOUND,
    *SIZES_SOUND,
]
