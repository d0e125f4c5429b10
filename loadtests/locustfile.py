"""Players who come and go, by Locust: open-loop, so that services that are slow do not have fewer of them.

    locust -f loadtests/locustfile.py --sessions HOST:PORT --control HOST:PORT --frames HOST:PORT
    locust -f loadtests/locustfile.py --headless --only-summary --arrivals-per-s 0.5 --last-s 300

Everybody who is to come is drawn from a seed before the first one does, and comes at that time whether or
not others were served; how long something took is counted from when it was due. Refusals with a time to come
again are counted apart. Afterwards it exits 1 where an SLO of the services was broken, and prints one line of
JSON, last.
"""

import gevent
from grpc.experimental.gevent import init_gevent

# A player has three connections, and gRPC waits for each in a thread of gevent's. With its ten threads, calls
# on hundreds of connections take turns and stand still for seconds; threads are only made as they are needed.
gevent.get_hub().threadpool.maxsize = 1000
init_gevent()  # before any channel is made; Locust has patched the sockets already

from loadtests.visiting.events import Arrivals, Player  # noqa: E402

__all__ = ["Arrivals", "Player"]
