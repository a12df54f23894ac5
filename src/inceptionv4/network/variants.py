"""The architectures that weights exist for, by name: the authors' own, and one that no folding turns into it.

PaddleClas reads the paper's figures where the authors' code (TF-slim, whose weights timm and others ported) does the
opposite: in three places the 1 x n and n x 1 convolutions of a branch change places. Its branches also stand in another
order, so that channels do. Weights trained in one cannot be used in the other.
"""

from __future__ import annotations

from typing import Literal

from inceptionv4.network.architecture import STAGES, Stage, avg_pool, branches, chain, conv, max_pool

Architecture = Literal["inception-v4", "inception-v4-paddleclas"]

# The second branch of the middle part goes 7 x 1 before 1 x 7.
_stem = chain(
    conv(32, 3, stride=2, padding="valid"),
    conv(32, 3, padding="valid"),
    conv(64, 3),
    branches(
        max_pool,
        conv(96, 3, stride=2, padding="valid"),
    ),
    branches(
        chain(conv(64, 1), conv(96, 3, padding="valid")),
        chain(conv(64, 1), conv(64, (7, 1)), conv(64, (1, 7)), conv(96, 3, padding="valid")),
    ),
    branches(
        conv(192, 3, stride=2, padding="valid"),
        max_pool,
    ),
)
_inception_a = branches(
    chain(avg_pool, conv(96, 1)),
    conv(96, 1),
    chain(conv(64, 1), conv(96, 3)),
    chain(conv(64, 1), conv(96, 3), conv(96, 3)),
)
_reduction_a = branches(
    max_pool,
    conv(384, 3, stride=2, padding="valid"),
    chain(conv(192, 1), conv(224, 3), conv(256, 3, stride=2, padding="valid")),
)
# The longest branch goes 1 x 7 first.
_inception_b = branches(
    chain(avg_pool, conv(128, 1)),
    conv(384, 1),
    chain(conv(192, 1), conv(224, (1, 7)), conv(256, (7, 1))),
    chain(conv(192, 1), conv(192, (1, 7)), conv(224, (7, 1)), conv(224, (1, 7)), conv(256, (7, 1))),
)
_reduction_b = branches(
    max_pool,
    chain(conv(192, 1), conv(192, 3, stride=2, padding="valid")),
    chain(conv(256, 1), conv(256, (1, 7)), conv(320, (7, 1)), conv(320, 3, stride=2, padding="valid")),
)
# The longest branch goes 1 x 3 before 3 x 1.
_inception_c = branches(
    chain(avg_pool, conv(256, 1)),
    conv(256, 1),
    chain(conv(384, 1), branches(conv(256, (1, 3)), conv(256, (3, 1)))),
    chain(conv(384, 1), conv(448, (1, 3)), conv(512, (3, 1)), branches(conv(256, (1, 3)), conv(256, (3, 1)))),
)

PADDLECLAS_STAGES = (
    Stage("stem", _stem),
    *(Stage(f"inception_a{i}", _inception_a) for i in range(1, 5)),
    Stage("reduction_a", _reduction_a),
    *(Stage(f"inception_b{i}", _inception_b) for i in range(1, 8)),
    Stage("reduction_b", _reduction_b),
    *(Stage(f"inception_c{i}", _inception_c) for i in range(1, 4)),
)

ARCHITECTURES: dict[Architecture, tuple[Stage, ...]] = {
    "inception-v4": STAGES,
    "inception-v4-paddleclas": PADDLECLAS_STAGES,
}
