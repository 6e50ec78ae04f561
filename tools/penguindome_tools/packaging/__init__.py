"""Makes the packages of Debian and Arch. No part of what they install, but for `pkg_setup`."""
