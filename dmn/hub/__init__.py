"""Networks by name or file: shipped ones, runs of one's own, converted ones, torchvision's."""

from dmn.hub.converted import Converted, load_converted, save_converted
from dmn.hub.networks import Network, load_network, save_network
from dmn.hub.pretrained import Pretrained, load

__all__ = [
    "Converted",
    "Network",
    "Pretrained",
    "load",
    "load_converted",
    "load_network",
    "save_converted",
    "save_network",
]
