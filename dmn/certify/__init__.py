"""What a network guarantees: bounds of its logits over boxes of images, and certain classes.

`bounds` gives the range of each logit, `worst_logits` how far each can exceed a class's, and
`certain` says for which images the class cannot change. `least_change` and `certified_map` say
which regions of an image that depends on.
"""

from dmn.certify.bounds import Bounds, bounds, certain, guaranteed_margin, worst_logits
from dmn.certify.box import Box, box
from dmn.certify.interval import Interval
from dmn.certify.region import certified_map, least_change
from dmn.certify.rules import FUNCTIONS, MODULES
from dmn.certify.tightness import looseness

__all__ = [
    "FUNCTIONS",
    "MODULES",
    "Bounds",
    "Box",
    "Interval",
    "bounds",
    "box",
    "certain",
    "certified_map",
    "guaranteed_margin",
    "least_change",
    "looseness",
    "worst_logits",
]
