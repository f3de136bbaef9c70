package example;

import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.jdbc.core.JdbcTemplate;
import org.springframework.scheduling.annotation.EnableScheduling;
import org.springframework.scheduling.annotation.Scheduled;
import org.springframework.transaction.support.TransactionTemplate;

/** Works five times a second while this pod leads, and nowhere else. */
@SpringBootApplication
@EnableScheduling
class Worker {
    private final Leadership leadership;
    private final JdbcTemplate store;
    private final TransactionTemplate transaction;
    @Value("${POD_NAME:pod}") private String pod;

    Worker(Leadership leadership, JdbcTemplate store, TransactionTemplate transaction) {
        this.leadership = leadership;
        this.store = store;
        this.transaction = transaction;
    }

    @Scheduled(fixedDelay = 200)
    void work() throws InterruptedException {
        leadership.token().ifPresent(token ->
            System.out.println((step(token) ? "worked" : "refused") + " under token " + token));
    }

    /** One transaction, which does nothing if the store has seen a newer token. Says whether it did. */
    private boolean step(long token) {
        return transaction.execute(status -> {
            store.update("INSERT INTO fence (name, token) VALUES ('work', ?) ON CONFLICT (name)"
                + " DO UPDATE SET token = excluded.token WHERE fence.token < excluded.token", token);
            return store.update("INSERT INTO work (token, pod)"
                + " SELECT token, ? FROM fence WHERE name = 'work' AND token = ?", pod, token) == 1;
        });
    }

    public static void main(String[] arguments) {
        SpringApplication.run(Worker.class, arguments);
    }
}
