"""A simulated provider: scenarios of health and sickness, an HTTP server on loopback, and virtual time.

Import what you need from :mod:`~llmbatch.sim.scenario`, :mod:`~llmbatch.sim.provider`, :mod:`~llmbatch.sim.server`
(which loads the HTTP library) and :mod:`~llmbatch.sim.virtual`. This package does not import them for you, and does not
imitate a model: its text is filler.
"""
