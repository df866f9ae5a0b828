package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.json;
import static org.junit.jupiter.api.Assertions.*;

/// Runs the recipes in `examples/scale/` as written. Needs the checkout and the program of the recipe; otherwise the
/// test is skipped with a message.
@Tag("slow")
final class RecipesTest extends WholeCommand {
    private Simulated dify;

    /// Prepares what the recipes need: `difyexec` on the PATH, the key in `.env`, and a CSV.
    @BeforeEach
    void install() throws IOException {
        var java = Given.Tool.words().stream().collect(Collectors.joining("' '", "'", "'"));
        Files.createDirectories(file("bin"));
        executable(file("bin/difyexec"), "#!/bin/sh\nexec " + java + " \"$@\"\n");
        dify = new Simulated("--latency", "10ms");
        env("", dify);
        rows(12);
    }

    /// Writes a settings file for this app.
    private void env(String name, Simulated app) throws IOException {
        Files.writeString(file(name + ".env"),
                "DIFY_API_KEY=" + KEY + "\nDIFY_API_BASE_URL=" + app.server.baseUrl() + "\n");
    }

    private static String recipe(String name) {
        return checkout().resolve("examples/scale").resolve(name).toString();
    }

    private static void need(String... programs) {
        for (var program : programs)
            Assumptions.assumeTrue(Stream.of("/usr/bin", "/usr/sbin", "/bin", "/usr/local/bin")
                    .anyMatch(place -> Files.isExecutable(Path.of(place, program))),
                    program + " is not installed");
    }

    /// Returns the scripts of a section of the cookbook.
    private static List<String> scripts(String title) throws IOException {
        var page = Files.readString(checkout().resolve("docs/cookbook.md"));
        var section = page.substring(page.indexOf("\n## " + title + "\n")).split("\n## ")[1];
        return Pattern.compile("(?s)```bash\n(.*?)```").matcher(section).results().map(found -> found.group(1)).toList();
    }

    /// Runs a program without input to its end.
    private Call exec(Map<String, String> settings, String... words) throws Exception {
        var environment = new HashMap<>(settings);
        environment.putAll(Map.of("PATH", file("bin") + ":/usr/bin:/bin:/usr/sbin:/usr/local/bin",
                "HOME", folder.toString(), "LC_ALL", "C.UTF-8"));
        var child = start(List.of(words), environment);
        feed(child, "");
        return new Call(child.waitFor(), content("child.out"), content("child.err"));
    }

    /// Checks that each row has the result of a single process and was sent once.
    private void hasEveryResultOnce(String joined) throws IOException {
        assertEquals(12, dify.count("started"));
        assertEquals(12, content(joined).lines().count());
        var one = path("one.jsonl");
        call(dify.settings(), "run", "-i", input(), "-o", one, "--mode", "blocking");
        call(Map.of(), "compare", "--json", one, path(joined)).shows(json("'same':12,"), json("'inputs_differ':0,"));
    }

    @Nested
    class RecipesForTwoApps {
        private final Map<String, Simulated> apps = new HashMap<>();

        /// Starts an app with its own settings file, whose answer repeats the last of these columns.
        private void app(String name, String column) throws IOException {
            var app = new Simulated("--dify", "1.16.0", "--latency", "10ms", "--columns", "id," + column);
            apps.put(name, app);
            env(name, app);
        }

        /// Runs the commands of a section's first script, one after the other. Returns the last one's outcome.
        private Call type(String title) throws Exception {
            var commands = scripts(title).getFirst().lines().toList();
            for (var command : commands.subList(0, commands.size() - 1))
                exec(Map.of(), "bash", "-c", command).exits(0);
            return exec(Map.of(), "bash", "-c", commands.getLast());
        }

        private List<String> answers(String results) throws IOException {
            return read(results).stream().sorted(Comparator.comparing(line -> line.path("id").asText()))
                    .map(line -> line.at("/outputs/answer").asText()).toList();
        }

        @Test
        void aChainRunsEachRowOnceInEachApp() throws Exception {
            app("first", "text");
            app("second", "draft");
            csv("id,text", "1,one", "2,- two", "3,three");

            type("A chain of two apps").exits(0);

            assertTrue(content("first.csv").contains(",- two,"), "not escaped for a spreadsheet");
            assertEquals(List.of("Answer to: one", "Answer to: - two", "Answer to: three"), answers("first.jsonl"));
            assertEquals(List.of("Answer to: Answer to: one", "Answer to: Answer to: - two",
                    "Answer to: Answer to: three"), answers("second.jsonl"));
            for (var app : apps.values()) assertEquals(3, app.count("started"));
        }

        @Test
        void aJudgesGradesAreComparedWithTheExpectedOnes() throws Exception {
            app("app", "text");
            app("judge", "draft");
            csv("id,text,grade", "1,one,Answer to: Answer to: one", "2,two,other");

            type("A model as judge").exits(3).shows("correct", "missed", "50.0");

            for (var app : apps.values()) assertEquals(2, app.count("started"));
        }
    }

    @Nested
    class TheRecipeForRealRuns {
        /// Dify 1.9 stores inputs and outputs as text.
        @ParameterizedTest
        @ValueSource(strings = {"1.9.2", "1.16.1"})
        void writesTheSucceededRunsOfAllPagesButThoseOfTheTool(String version) throws Exception {
            need("curl", "jq");
            var app = new Simulated("--dify", version, "--latency", "10ms", "--columns", "id,text");
            app.app.limitPages(10);
            env("", app);
            rows(25);
            call(app.settings(), "run", "-i", input(), "-o", path("people.jsonl"), "--user", "person").exits(0);
            csv("id,text", "26,[fail]");
            call(app.settings(), "run", "-i", input(), "-o", path("failed.jsonl"), "--user", "person").exits(3);
            csv("id,text", "27,ours");
            call(app.settings(), "run", "-i", input(), "-o", path("ours.jsonl")).exits(0);

            var scripts = scripts("Real runs as the next batch");
            Files.writeString(file("runs.sh"), scripts.getFirst());
            exec(Map.of(), "bash", "-c", "set -e\n" + scripts.getLast()).exits(0);

            var people = read("people.jsonl").stream().map(line -> line.path("workflow_run_id").asText());
            assertEquals(people.sorted().toList(), Given.Scene.texts("id", read("real.jsonl")).stream().sorted().toList());
            assertEquals(25, read("new.jsonl").size());
            assertTrue(scripts.getFirst().lines().count() <= 15);
        }
    }

    @Nested
    class RecipesForManyProcesses {
        @ParameterizedTest
        @ValueSource(strings = {"parallel.sh data.csv results.jsonl 3", "parallel-ssh.sh data.csv results.jsonl 3 :"})
        void gnuParallelProducesTheSameResultsAsOneProcess(String line) throws Exception {
            need("parallel");
            var words = line.split(" ");
            words[0] = recipe(words[0]);

            exec(Map.of(), words).exits(Exit.OK.code);

            assertTrue(names().containsAll(Set.of("results.1-of-3.jsonl", "results.2-of-3.jsonl",
                    "results.3-of-3.jsonl")), names().toString());
            hasEveryResultOnce("results-joined.jsonl");
            csv("id,text", "new,[fail!]");
            words[2] = "failing.jsonl";
            exec(Map.of(), words).exits(1); // one process did not end with 0
        }

        private static String script() throws IOException {
            return Files.readString(Path.of(recipe("kubernetes.yaml")))
                    .replaceAll("(?s).*\n            - \\|\n(.*?)\n          workingDir.*", "$1").stripIndent();
        }

        /// Sets the variables of such a job. A failed row still completes the index.
        @Test
        void aKubernetesJobRunsItsShardAndSucceedsIfOnlyRowsFail() throws Exception {
            replace("data.csv", "text 5", "[fail]");
            var index = Shard.ofRow("5", 8).index();

            exec(Map.of("JOB_COMPLETION_INDEX", String.valueOf(index - 1)), "sh", "-c", script()).exits(Exit.OK.code)
                    .mentions("Shard " + index + " of 8: ");

            assertTrue(content("results." + index + "-of-8.jsonl.retry").contains("5\n"));
        }

        @Test
        void aKubernetesJobFailsIfNoRowCanRun() throws Exception {
            Files.delete(file(".env")); // nothing can run without a key

            exec(Map.of("JOB_COMPLETION_INDEX", "0"), "sh", "-c", script()).exits(Exit.UNUSABLE.code);
        }

        /// Runs each task as the array job starts it.
        @Test
        void slurmTasksProduceTheSameResultsAsOneProcess() throws Exception {
            for (int task = 1; task <= 4; task++)
                slurmTask(task).exits(Exit.OK.code).mentions("Shard " + task + " of 4: ");
            exec(Map.of(), "sh", "-c", "cat results.*-of-4.jsonl >joined.jsonl").exits(Exit.OK.code);

            hasEveryResultOnce("joined.jsonl");
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                code of difyexec, code of the task
                0,                0
                3,                0
                4,                4
                130,              130
                """)
        void aSlurmTaskSucceedsIfOnlyRowsFail(int code, int expected) throws Exception {
            executable(file("bin/difyexec"), "#!/bin/sh\nexit " + code + "\n");

            slurmTask(1).exits(expected);
        }

        private Call slurmTask(int number) throws Exception {
            return exec(Map.of("SLURM_ARRAY_TASK_ID", "" + number), "sh", recipe("slurm.sh"), "data.csv",
                    "results.jsonl");
        }
    }
}
