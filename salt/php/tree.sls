# The libraries that a PHP tree needs, and the tree of the initial release on a server that has none.
{%- set topology = salt['webfarm_topology.get']() %}
php_libraries:
  pkg.installed:
    - pkgs:
      - libapparmor1
      - libargon2-1
      - libedit2
      - libmagic1
      - libmemcached11
      - libpcre2-8-0
      - libsodium23
      - libssl3
      - libsystemd0
      - libxml2
      - media-types
      - rsync
      - tzdata
      - zlib1g

php_tree:
  php_version.installed:
    - name: {{ topology.releases[topology.initial].php | json }}
    - unless: test -e /srv/webfarm/php/current
    - require:
      - pkg: php_libraries
