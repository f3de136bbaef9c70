package example;

import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.util.OptionalLong;
import java.util.concurrent.locks.LockSupport;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.stereotype.Component;

/** Whether this pod leads, as its sidecar says. */
@Component
class Leadership {
    private final HttpClient client = HttpClient.newBuilder().proxy(HttpClient.Builder.NO_PROXY).build();
    private final HttpRequest question;

    Leadership(@Value("${leasehold.url}") String url) {
        question = HttpRequest.newBuilder(URI.create(url + "/leader")).timeout(Duration.ofSeconds(1)).build();
        var session = new Thread(() -> session(HttpRequest.newBuilder(URI.create(url + "/v1/session")).build()));
        session.setDaemon(true);
        session.start();
    }

    /** Open for as long as this process lives: this pod leads only meanwhile. */
    private void session(HttpRequest open) {
        while (true) {
            try {
                client.send(open, BodyHandlers.ofLines()).body().forEach(event -> {});
            } catch (Exception away) {
                // The sidecar is not there, or not yet again.
            }
            LockSupport.parkNanos(200_000_000);
        }
    }

    /** The fencing token for a step that begins now; empty while this pod does not lead. */
    OptionalLong token() throws InterruptedException {
        long asked = System.nanoTime();                                // before the question
        try {
            var headers = client.send(question, BodyHandlers.discarding()).headers();
            long validFor = 1_000_000 * headers.firstValueAsLong("Leasehold-Valid-For-Ms").orElse(0);
            boolean leads = System.nanoTime() - asked < validFor;      // for 0 ms: not leader
            return leads ? headers.firstValueAsLong("Leasehold-Token") : OptionalLong.empty();
        } catch (IOException noAnswer) {
            return OptionalLong.empty();                               // is a no
        }
    }
}
