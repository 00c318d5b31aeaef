# The site's session database: MariaDB on its own address, one table, one user that may do nothing else
# and only from the site's web servers.
{%- set topology = salt['webfarm_topology.get']() %}
{%- set here = salt['webfarm_topology.node']() %}
{%- set database = here.node %}
{%- set hosts = [] %}
{%- set children = [] %}
{%- for farm in topology.sites[here.site].farms.values() %}
  {%- for server in farm.servers.values() %}
    {%- do hosts.append(server.address) %}
    {%- do children.append(server.max_children) %}
  {%- endfor %}
{%- endfor %}
{%- if not pillar.get('webfarm_secrets', {}).get('database_password') %}
{{ raise('pillar webfarm_secrets:database_password is missing for ' ~ here.id ~ ': write secrets/' ~ here.site ~ '.sls on the master') }}
{%- endif %}
include:
  - folders

mariadb-server:
  pkg.installed: []

# The file names sort last among MariaDB's own. MariaDB checks its options and exits when asked for help.
# Only the first file's change restarts MariaDB, and it changes when the database moves; the second's,
# which changes with each new server, is also set at run time, by database.sql.
{%- set check = 'sh -c \'mariadbd --defaults-file="$0" --user=mysql --verbose --help > /dev/null\'' %}
/etc/mysql/mariadb.conf.d/90-webfarm.cnf:
  file.managed:
    - source: salt://database/files/webfarm.cnf.jinja
    - template: jinja
    - mode: '0644'
    - check_cmd: {{ check }}
    - require:
      - pkg: mariadb-server

/etc/mysql/mariadb.conf.d/91-webfarm-size.cnf:
  file.managed:
    - mode: '0644'
    - check_cmd: {{ check }}
    - contents: |
        # Written by Webfarm's state `database`; changes made here do not last.
        [mariadbd]
        # one for each PHP process of the site, and some for people
        max_connections = {{ children | sum + 32 }}
    - require:
      - pkg: mariadb-server

/etc/systemd/system/mariadb.service.d/webfarm.conf:
  file.managed:
    - source: salt://folders/files/after-network.conf
    - makedirs: true

mariadb:
  service.running:
    - enable: true
    - require:
      - file: /etc/systemd/system/mariadb.service.d/webfarm.conf
      - file: /etc/mysql/mariadb.conf.d/91-webfarm-size.cnf
    - watch:
      - file: /etc/mysql/mariadb.conf.d/90-webfarm.cnf

# Who counts the sessions (webfarm_sessions.count); MariaDB knows it by its socket, without a password.
webfarm_reader:
  user.present:
    - system: true
    - home: /nonexistent
    - createhome: false
    - shell: /usr/sbin/nologin

# The password goes from this file to MariaDB's standard input: into no command line and no log.
/etc/webfarm/database.sql:
  file.managed:
    - source: salt://database/files/database.sql.jinja
    - template: jinja
    - context:
        hosts: {{ hosts | json }}
        connections: {{ children | sum + 32 }}
        reader: webfarm_reader
    - user: root
    - group: root
    - mode: '0600'
    - show_changes: false
    - require:
      - file: webfarm_folders

sessions_schema:
  cmd.run:
    - name: >-
        mariadb < /etc/webfarm/database.sql &&
        sha256sum < /etc/webfarm/database.sql > /var/lib/webfarm/database.applied
    - unless:
      - sha256sum < /etc/webfarm/database.sql | cmp -s - /var/lib/webfarm/database.applied
      - mariadb -e 'SELECT version, `release`, farm, updated, data FROM `{{ database.name }}`.sessions LIMIT 0'
      - >-
        test {{ hosts | length }} = "$(mariadb --skip-column-names -e
        "SELECT COUNT(*) FROM mysql.tables_priv WHERE user = '{{ database.user }}' AND db = '{{ database.name }}' AND table_name = 'sessions'")"
    - require:
      - service: mariadb
      - file: /etc/webfarm/database.sql
