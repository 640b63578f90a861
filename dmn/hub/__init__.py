"""Networks by name or file: shipped ones, runs of one's own, converted ones, torchvision's."""

from dmn.hub.converted import save_converted
from dmn.hub.loading import load
from dmn.hub.network import Network
from dmn.hub.shipped import save_network

__all__ = ["Network", "load", "save_converted", "save_network"]
