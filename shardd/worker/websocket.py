class WebsocketLayer:
    pass


class Stacked:
    pass
