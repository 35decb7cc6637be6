"""The service of ``proseco serve``: an ASGI application in front of replicas that hold models and engines.

The application is light and knows many slow clients, keys and limits; a replica knows rows. What lies between them is
``backend.Backend``: in one process the replica itself, on a cluster a handle of Ray Serve. Serve's own proxy is not
used: it takes in a body without a bound while the application does not read it.
"""
