"""The sample lists ship with the package; the tests call them `samples`."""

import sys

from c2fcore.testing import samples

sys.modules[__name__] = samples
