"""Python values and their JSON: what a type says, how a value is encoded, how it is cast back."""
