"""One plug-in of each kind for proseco, in a distribution of its own. This tuple names them all."""

from toy_plugins.options import EvenConfig, PalindromesConfig, RestlessConfig, TopHeavyConfig, UnigramConfig

CARDS = (EvenConfig, RestlessConfig, TopHeavyConfig, UnigramConfig, PalindromesConfig)
