"""Take a farm from one release to the next: observe, plan, act once, look again.

``model`` the values, ``planner`` what to do next, ``engine`` the loop, ``journal`` and ``lease``
what survives a crash, ``cluster`` what the engine needs of the world and ``salt_cluster`` that
world through Salt, ``report`` what is shown.
"""
