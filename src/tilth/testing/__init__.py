"""Public conformance suites, fakes and simulators."""
