"""Whether two answers agree ships with the package; the tests call it `agreement`."""

import sys

from c2fcore.testing import agree

sys.modules[__name__] = agree
