# What runs the webapp: php-fpm's service on the tree behind the `current` symlink, its configuration,
# and Webfarm's PHP files (the guard, the session handler, /ready). Which version runs is not decided
# here: see the state `webapp`.
{%- set topology = salt['webfarm_topology.get']() %}
{%- set here = salt['webfarm_topology.node']() %}
{%- set current = '/srv/webfarm/php/current' %}
{%- if not salt['file.directory_exists'](current) %}
  {%- set current = '/srv/webfarm/php/versions/' ~ topology.releases[topology.initial].php %}
{%- endif %}
{%- if here.site and not pillar.get('webfarm_secrets', {}).get('database_password') %}
{{ raise('pillar webfarm_secrets:database_password is missing for ' ~ here.id ~ ': write secrets/' ~ here.site ~ '.sls on the master') }}
{%- endif %}
include:
  - folders
  - php.tree

/usr/share/webfarm/php:
  file.recurse:
    - source: salt://php/files/share
    - clean: true
    - dir_mode: '0755'
    - file_mode: '0644'

# The cluster as this server sees it, with the database's password: for root and the webapp's user only.
/etc/webfarm/session.php:
  file.managed:
    - source: salt://php/files/session.php.jinja
    - template: jinja
    - user: root
    - group: www-data
    - mode: '0640'
    - show_changes: false
    - check_cmd: {{ current }}/bin/php -l
    - require:
      - file: webfarm_folders
      - php_version: php_tree

/etc/webfarm/releases.php:
  file.managed:
    - source: salt://php/files/releases.php.jinja
    - template: jinja
    - mode: '0644'
    - check_cmd: {{ current }}/bin/php -l
    - require:
      - file: webfarm_folders
      - php_version: php_tree

/etc/webfarm/php-fpm.conf:
  file.managed:
    - source: salt://php/files/php-fpm.conf.jinja
    - template: jinja
    - mode: '0644'
    - check_cmd: {{ current }}/sbin/php-fpm --test --fpm-config
    - require:
      - file: webfarm_folders
      - php_version: php_tree

/usr/local/lib/webfarm/verify-trees:
  file.managed:
    - source: salt://php/files/verify-trees
    - makedirs: true
    - mode: '0755'

# A change of the unit takes effect when php-fpm next restarts, which an upgrade does: a highstate must
# not restart a server in service.
/etc/systemd/system/webfarm-php-fpm.service:
  file.managed:
    - source: salt://php/files/webfarm-php-fpm.service
    - mode: '0644'
    - require:
      - file: /usr/local/lib/webfarm/verify-trees

php_fpm_unit_known:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: /etc/systemd/system/webfarm-php-fpm.service
