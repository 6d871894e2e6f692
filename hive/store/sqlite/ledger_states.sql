SELECT batch.name AS batch, counter.state, sum(counter.n) AS n FROM counter JOIN batch ON batch.id = counter.batch_id GROUP BY batch.id, counter.state;
