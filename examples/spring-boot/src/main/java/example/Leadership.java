package example;

import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.util.OptionalLong;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.stereotype.Component;

/** Whether this pod leads, as its sidecar says. */
@Component
class Leadership {
    private final HttpClient client = HttpClient.newBuilder().proxy(HttpClient.Builder.NO_PROXY).build();
    private final HttpRequest question;

    Leadership(@Value("${leasehold.url}") String url) {
        question = HttpRequest.newBuilder(URI.create(url + "/leader")).timeout(Duration.ofSeconds(1)).build();
    }

    /** The fencing token for a step that begins now; empty while this pod does not lead. */
    OptionalLong token() throws InterruptedException {
        long asked = System.nanoTime();                                // before the question
        try {
            var headers = client.send(question, BodyHandlers.discarding()).headers();
            long validFor = 1_000_000 * headers.firstValueAsLong("Leasehold-Valid-For-Ms").orElse(0);
            return System.nanoTime() - asked < validFor ? headers.firstValueAsLong("Leasehold-Token") : OptionalLong.empty();
        } catch (IOException noAnswer) {
            return OptionalLong.empty();                               // is a no
        }
    }
}
