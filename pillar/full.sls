# Two balancers in every layer, two sites with three farms of four servers of two hardware profiles,
# and a preproduction server for each profile.
webfarm:
  store:
    minion: master
    address: 10.77.0.2

  primary:
    domain: shop.example
    tls:
      certificate: /etc/webfarm/tls/public.pem
    balancers:
      lb1: {address: 10.77.0.11, public: 10.77.100.11}
      lb2: {address: 10.77.0.12, public: 10.77.100.12}

  sites:
    site1:
      balancers:
        site1-lb1: {address: 10.77.1.11}
        site1-lb2: {address: 10.77.1.12}
      database: {minion: site1-db1, address: 10.77.1.5}
      # min_requests: 0, so that it may be upgraded without traffic; leave it out where there is some
      policy: {min_capacity: 0.5, floor: strict, gates: {min_requests: 0}}
      farms:
        farm1:
          memcached:
            - "10.77.1.101:11211"
            - "10.77.1.102:11211"
            - "10.77.1.103:11211"
            - "10.77.1.104:11211"
          servers:
            site1-farm1-ws1: {address: 10.77.1.101, hw_profile: r640, weight: 100}
            site1-farm1-ws2: {address: 10.77.1.102, hw_profile: r640, weight: 100}
            site1-farm1-ws3: {address: 10.77.1.103, hw_profile: r660, weight: 150}
            site1-farm1-ws4: {address: 10.77.1.104, hw_profile: r660, weight: 150}
        farm2:
          memcached:
            - "10.77.1.111:11211"
            - "10.77.1.112:11211"
            - "10.77.1.113:11211"
            - "10.77.1.114:11211"
          servers:
            site1-farm2-ws1: {address: 10.77.1.111, hw_profile: r640, weight: 100}
            site1-farm2-ws2: {address: 10.77.1.112, hw_profile: r640, weight: 100}
            site1-farm2-ws3: {address: 10.77.1.113, hw_profile: r660, weight: 150}
            site1-farm2-ws4: {address: 10.77.1.114, hw_profile: r660, weight: 150}
        farm3:
          memcached:
            - "10.77.1.121:11211"
            - "10.77.1.122:11211"
            - "10.77.1.123:11211"
            - "10.77.1.124:11211"
          servers:
            site1-farm3-ws1: {address: 10.77.1.121, hw_profile: r640, weight: 100}
            site1-farm3-ws2: {address: 10.77.1.122, hw_profile: r640, weight: 100}
            site1-farm3-ws3: {address: 10.77.1.123, hw_profile: r660, weight: 150}
            site1-farm3-ws4: {address: 10.77.1.124, hw_profile: r660, weight: 150}
    site2:
      balancers:
        site2-lb1: {address: 10.77.2.11}
        site2-lb2: {address: 10.77.2.12}
      database: {minion: site2-db1, address: 10.77.2.5}
      # min_requests: 0, so that it may be upgraded without traffic; leave it out where there is some
      policy: {min_capacity: 0.5, floor: strict, gates: {min_requests: 0}}
      farms:
        farm1:
          memcached:
            - "10.77.2.101:11211"
            - "10.77.2.102:11211"
            - "10.77.2.103:11211"
            - "10.77.2.104:11211"
          servers:
            site2-farm1-ws1: {address: 10.77.2.101, hw_profile: r640, weight: 100}
            site2-farm1-ws2: {address: 10.77.2.102, hw_profile: r640, weight: 100}
            site2-farm1-ws3: {address: 10.77.2.103, hw_profile: r660, weight: 150}
            site2-farm1-ws4: {address: 10.77.2.104, hw_profile: r660, weight: 150}
        farm2:
          memcached:
            - "10.77.2.111:11211"
            - "10.77.2.112:11211"
            - "10.77.2.113:11211"
            - "10.77.2.114:11211"
          servers:
            site2-farm2-ws1: {address: 10.77.2.111, hw_profile: r640, weight: 100}
            site2-farm2-ws2: {address: 10.77.2.112, hw_profile: r640, weight: 100}
            site2-farm2-ws3: {address: 10.77.2.113, hw_profile: r660, weight: 150}
            site2-farm2-ws4: {address: 10.77.2.114, hw_profile: r660, weight: 150}
        farm3:
          memcached:
            - "10.77.2.121:11211"
            - "10.77.2.122:11211"
            - "10.77.2.123:11211"
            - "10.77.2.124:11211"
          servers:
            site2-farm3-ws1: {address: 10.77.2.121, hw_profile: r640, weight: 100}
            site2-farm3-ws2: {address: 10.77.2.122, hw_profile: r640, weight: 100}
            site2-farm3-ws3: {address: 10.77.2.123, hw_profile: r660, weight: 150}
            site2-farm3-ws4: {address: 10.77.2.124, hw_profile: r660, weight: 150}

  preproduction:
    servers:
      preproduction-r640: {address: 10.77.0.51, hw_profile: r640}
      preproduction-r660: {address: 10.77.0.52, hw_profile: r660}

  releases:
    "2026.11.1": {php: "8.2.32", webapp: "1"}
    "2026.11.2": {php: "8.2.36", webapp: "2"}
  initial: "2026.11.1"
  target: "2026.11.2"
