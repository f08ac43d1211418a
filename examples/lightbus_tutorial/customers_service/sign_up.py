"""Somewhere in the customers service: fire an event. Run it in this directory."""

from bus import bus

if __name__ == "__main__":
    bus.customers.new_customer.fire(customer_name="eve", email="eve@example.com")
