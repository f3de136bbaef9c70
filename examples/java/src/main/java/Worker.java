import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.sql.DriverManager;
import java.time.Duration;
import java.util.concurrent.locks.LockSupport;

/** Works five times a second while this pod leads, and nowhere else. */
class Worker {
    static final String URL = System.getenv().getOrDefault("LEASEHOLD_URL", "http://127.0.0.1:4040");
    static final String POD = System.getenv().getOrDefault("POD_NAME", "pod");
    static final HttpClient CLIENT = HttpClient.newBuilder().proxy(HttpClient.Builder.NO_PROXY).build();

    /** Under this token a step may begin until System.nanoTime() says so. */
    record Term(long token, long until) {
        boolean lasts() { return System.nanoTime() - until < 0; }
    }

    static Term term() throws InterruptedException {
        var question = HttpRequest.newBuilder(URI.create(URL + "/leader")).timeout(Duration.ofSeconds(1)).build();
        long asked = System.nanoTime();                                // before the question
        try {
            var headers = CLIENT.send(question, BodyHandlers.discarding()).headers();
            long validFor = headers.firstValueAsLong("Leasehold-Valid-For-Ms").orElse(0);  // 0: not leader
            return new Term(headers.firstValueAsLong("Leasehold-Token").orElse(0), asked + 1_000_000 * validFor);
        } catch (java.io.IOException noAnswer) {
            return new Term(0, asked);                                 // is a no
        }
    }

    /** Open for as long as this process lives: this pod leads only meanwhile. */
    static void session() {
        var open = HttpRequest.newBuilder(URI.create(URL + "/v1/session")).build();
        while (true) {
            try {
                CLIENT.send(open, BodyHandlers.ofLines()).body().forEach(event -> {});
            } catch (Exception away) {
                // The sidecar is not there, or not yet again.
            }
            LockSupport.parkNanos(200_000_000);
        }
    }

    /** One transaction, which does nothing if the store has seen a newer token. */
    static final String STEP = """
        WITH newest AS (INSERT INTO fence (name, token) VALUES ('work', ?)
          ON CONFLICT (name) DO UPDATE SET token = excluded.token WHERE fence.token <= excluded.token RETURNING token)
        INSERT INTO work (token, pod) SELECT token, ? FROM newest""";

    public static void main(String[] arguments) throws Exception {
        var session = new Thread(Worker::session);
        session.setDaemon(true);
        session.start();
        var address = System.getenv().getOrDefault("STORE", "jdbc:postgresql://localhost/postgres");
        try (var store = DriverManager.getConnection(address); var step = store.prepareStatement(STEP)) {
            for (;; Thread.sleep(200)) {
                Term term = term();
                if (!term.lasts()) continue;
                step.setLong(1, term.token());
                step.setString(2, POD);
                System.out.println((step.executeUpdate() == 1 ? "worked" : "refused") + " under token " + term.token());
            }
        }
    }
}
