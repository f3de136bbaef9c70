/* Holds a pod's namespaces open: the first process of each pod, which does nothing until it is told to end. */
#include <signal.h>
#include <unistd.h>

static void end(int signal) { _exit(signal == SIGTERM ? 0 : 1); }

int main(void) {
    signal(SIGTERM, end);
    signal(SIGINT, end);
    signal(SIGCHLD, SIG_IGN); /* where the pod shares its processes, orphans are reaped by the kernel */
    for (;;) pause();
}
