"""The tolerances ship with the package; the tests call them `tolerances`."""

import sys

from c2fcore.testing import tolerances

sys.modules[__name__] = tolerances
