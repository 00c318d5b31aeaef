# Where this machine's packages come from. With Portage: the binary host of its hardware profile, and,
# on a preproduction server, the folders of that host (nginx serves them). apt's sources stay as they are.
{%- set topology = salt['webfarm_topology.get']() %}
{%- if salt['webfarm_packages.manager']() == 'portage' and topology.preproduction.servers %}
{%- if salt['webfarm_topology.node']().role == 'preproduction' %}
webfarm_binhost_folders:
  file.directory:
    - names:
      - {{ topology.packages.portage.packages }}
      - {{ topology.packages.portage.packages }}/build
      - {{ topology.packages.portage.packages }}/public
    - makedirs: true
    - user: root
    - group: root
    - mode: '0755'
{%- endif %}

webfarm_binhost:
  webfarm_packages.configured: []
{%- endif %}
