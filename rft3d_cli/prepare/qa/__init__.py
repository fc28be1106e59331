"""The field's spatial question training sets as records: what each one's rows hold, and one way through all of them."""
