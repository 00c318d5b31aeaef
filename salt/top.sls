base:
  '*':
    - minion
    - roles
