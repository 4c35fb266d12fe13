"""From a framework's model to measured, certified builds in a bundle."""
