"""The version of Tilth, in the one place that packaging, commands and certificates read."""

VERSION = "0.1.0"
