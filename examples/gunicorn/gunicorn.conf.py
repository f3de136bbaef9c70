workers = 4


def post_worker_init(worker):
    from app import start

    start()  # in each worker, after the fork: threads do not survive it
