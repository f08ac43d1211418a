"""Somewhere in another service: call a procedure of `auth`, whose worker must run. Run it in this directory."""

from bus import bus

if __name__ == "__main__":
    for password in ("secret", "guess"):
        print(f"{password}: {bus.auth.check_password(username='admin', password=password)}")
