class OperatorAuthority:
    def __init__(self, mode, now):
        pass


def accounts_of(config):
    return config.all_accounts
