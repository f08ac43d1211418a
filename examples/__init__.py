"""Programs that show pgbus at work; the tests run every one of them."""
