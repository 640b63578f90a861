"""What each operation of torch does to the streams of a split network, forward and backward."""

from dmn.rules.base import Activation, Rule
from dmn.rules.linear import Linear
from dmn.rules.table import add_rule, find_rules, is_known

__all__ = ["Activation", "Linear", "Rule", "add_rule", "find_rules", "is_known"]
