"""Published checkpoints as model folders: read without running code, translated to timm's names, checked key by key."""
