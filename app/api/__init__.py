"""HTTP, version 1: parse, call one service, shape the answer."""
