"""Players who come and go as players do, whether or not there is room: what loadtests/locustfile.py runs."""
