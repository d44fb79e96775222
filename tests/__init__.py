"""The tests of shardd: unit, property, conformance, faults, fuzz, and the harness they share."""
