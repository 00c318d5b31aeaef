# The smallest cluster that shows everything: a primary balancer, a site with two balancers and one
# with a single one, two farms of two servers in each, a preproduction server of their hardware profile.
# Plain data: see README.md.
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
          memcached: ["10.77.1.101:11211", "10.77.1.102:11211"]
          servers:
            site1-farm1-ws1: {address: 10.77.1.101, hw_profile: r640}
            site1-farm1-ws2: {address: 10.77.1.102, hw_profile: r640}
        farm2:
          memcached: ["10.77.1.111:11211", "10.77.1.112:11211"]
          servers:
            site1-farm2-ws1: {address: 10.77.1.111, hw_profile: r640}
            site1-farm2-ws2: {address: 10.77.1.112, hw_profile: r640}
    site2:
      balancers:
        site2-lb1: {address: 10.77.2.11}
      database: {minion: site2-db1, address: 10.77.2.5}
      # min_requests: 0, so that it may be upgraded without traffic; leave it out where there is some
      policy: {min_capacity: 0.5, floor: strict, gates: {min_requests: 0}}
      farms:
        farm1:
          memcached: ["10.77.2.101:11211", "10.77.2.102:11211"]
          servers:
            site2-farm1-ws1: {address: 10.77.2.101, hw_profile: r640}
            site2-farm1-ws2: {address: 10.77.2.102, hw_profile: r640}
        farm2:
          memcached: ["10.77.2.111:11211", "10.77.2.112:11211"]
          servers:
            site2-farm2-ws1: {address: 10.77.2.111, hw_profile: r640}
            site2-farm2-ws2: {address: 10.77.2.112, hw_profile: r640}

  preproduction:
    servers:
      preprod-ws1: {address: 10.77.3.51, hw_profile: r640}

  releases:
    "2026.11.1": {php: "8.2.32", webapp: "1"}
    "2026.11.2": {php: "8.2.36", webapp: "2"}
  initial: "2026.11.1"
  target: "2026.11.2"
