"""Where the bytes lie. An object is a run of bytes under a UUID; an upload is (object, offset, size)."""
