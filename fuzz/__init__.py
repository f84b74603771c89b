"""What strangers can send us, changed at random: every reader of it answers with a value or with a CarlosError."""
