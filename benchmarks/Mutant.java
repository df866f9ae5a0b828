package difyexec;

import com.sun.source.tree.ArrayAccessTree;
import com.sun.source.tree.AssignmentTree;
import com.sun.source.tree.BinaryTree;
import com.sun.source.tree.BlockTree;
import com.sun.source.tree.CaseTree;
import com.sun.source.tree.ClassTree;
import com.sun.source.tree.CompilationUnitTree;
import com.sun.source.tree.ConditionalExpressionTree;
import com.sun.source.tree.ExpressionTree;
import com.sun.source.tree.IdentifierTree;
import com.sun.source.tree.IfTree;
import com.sun.source.tree.LambdaExpressionTree;
import com.sun.source.tree.LiteralTree;
import com.sun.source.tree.MemberReferenceTree;
import com.sun.source.tree.MemberSelectTree;
import com.sun.source.tree.MethodInvocationTree;
import com.sun.source.tree.MethodTree;
import com.sun.source.tree.NewClassTree;
import com.sun.source.tree.ParenthesizedTree;
import com.sun.source.tree.ReturnTree;
import com.sun.source.tree.StatementTree;
import com.sun.source.tree.Tree;
import com.sun.source.tree.UnaryTree;
import com.sun.source.tree.VariableTree;
import com.sun.source.tree.WhileLoopTree;
import com.sun.source.util.JavacTask;
import com.sun.source.util.TreeScanner;
import com.sun.source.util.Trees;

import javax.tools.Diagnostic;
import javax.tools.DiagnosticCollector;
import javax.tools.DiagnosticListener;
import javax.tools.JavaFileObject;
import javax.tools.SimpleJavaFileObject;
import javax.tools.ToolProvider;

import module java.base;

/// One guard of the tool that is missing or wrong; the head of `mutants.txt` describes the format.
///
/// @param place the method, `Type.method`, or the field; `Type.new` is a constructor
/// @param edits what to do there, one after the other
/// @param tests the test classes of which at least one must fail; empty: only seeds or the sweep notice
/// @param seeds within how many seeds a promise breaks, if that has been tried; else empty
/// @param sweep options of `benchmarks/iofault` that find it, if that has been tried; else empty
record Mutant(String name, String place, List<String> edits, List<String> tests, List<String> seeds,
        List<String> sweep) {
    private static final Set<String> NOTICES = Set.of("fails", "seeds", "sweep", "fixed");

    static List<Mutant> read(Path file) throws IOException {
        return Stream.of(Files.readString(file).strip().split("\n\n+")).filter(block -> block.startsWith("# "))
                .map(block -> block.lines().toList())
                .map(lines -> of(lines.getFirst().substring(2), lines.subList(1, lines.size()))).toList();
    }

    private static Mutant of(String name, List<String> lines) {
        var edits = lines.stream().skip(1).filter(line -> !NOTICES.contains(line.split(" ")[0])).toList();
        var mutant = new Mutant(name, String.join(" ", words("in", lines)), edits, words("fails", lines),
                words("seeds", lines), words("sweep", lines));
        boolean isNoticed = Stream.of(mutant.tests, mutant.seeds, mutant.sweep).anyMatch(words -> !words.isEmpty());
        if (!lines.getFirst().startsWith("in ") || !isNoticed)
            throw new IllegalStateException(name + ": needs a place and what notices it");
        return mutant;
    }

    /// The words of the line that begins with this one.
    private static List<String> words(String first, List<String> lines) {
        return lines.stream().filter(line -> line.startsWith(first + " ")).findFirst()
                .map(line -> List.of(line.substring(first.length() + 1).split(" "))).orElse(List.of());
    }

    /// @throws IllegalStateException if an edit does not apply at exactly one place
    List<Edit> edits(Source source) {
        var nodes = source.nodes(place);
        return edits.stream().map(edit -> edit(edit, nodes, source)).toList();
    }

    private static Edit edit(String words, List<Node> nodes, Source source) {
        if (words.startsWith("remove ")) {
            var node = Selector.of(words.substring("remove ".length())).choose(nodes, source);
            return source.edit(node, switch (node.kind) {
                case "case" -> "";
                case "call" -> "{receiver}";
                case "operand" -> String.valueOf(node.name.equals("&&"));
                case "if", "return", "statement" -> "{}"; // an empty statement may not follow an arrow
                default -> throw new IllegalStateException("cannot be removed: " + words);
            });
        }
        var parts = words.split(" becomes ", 2);
        if (parts.length < 2) throw new IllegalStateException("neither remove nor becomes: " + words);
        return source.edit(Selector.of(parts[0]).choose(nodes, source), parts[1]);
    }

    record Edit(int from, int to, String text) {
        static String apply(Collection<Edit> edits, String source) {
            var text = new StringBuilder(source);
            edits.stream().sorted(Comparator.comparingInt(Edit::from).reversed())
                    .forEach(edit -> text.replace(edit.from, edit.to, edit.text));
            return text.toString();
        }

        boolean overlaps(Edit other) {
            return from < other.to && other.from < to;
        }
    }

    /// A place in a method.
    ///
    /// @param name the called method, created type, operator, constant or literal
    private record Node(String kind, String name, Tree tree) {}

    /// Words such as `call tryLock with MAX_VALUE #2`.
    private record Selector(String words, String kind, String name, List<String> names, int number) {
        private static final Pattern WORDS = Pattern.compile(
                "(\\w+)(?: (?!with |#\\d)(\"[^\"]*\"|\\S+))?(?: with (.+?))?(?: #(\\d+))?");

        static Selector of(String words) {
            var match = WORDS.matcher(words);
            if (!match.matches()) throw new IllegalStateException("not understood: " + words);
            var names = Objects.requireNonNullElse(match.group(3), "");
            return new Selector(words, match.group(1), match.group(2), names.isEmpty() ? List.of()
                    : List.of(names.split(", ")), Integer.parseInt(Objects.requireNonNullElse(match.group(4), "0")));
        }

        /// Of matching nodes inside one another, the innermost counts: `if with X` is not the `if` around it.
        Node choose(List<Node> nodes, Source source) {
            var matching = nodes.stream().filter(node -> node.kind.equals(kind)
                    && (name == null || node.name.equals(name)) && source.names(node.tree).containsAll(names)).toList();
            var innermost = matching.stream().filter(node -> matching.stream().noneMatch(other ->
                    other.tree != node.tree && source.start(other.tree) >= source.start(node.tree)
                            && source.end(other.tree) <= source.end(node.tree))).toList();
            if (number == 0 && innermost.size() != 1 || number > innermost.size())
                throw new IllegalStateException("found " + innermost.size() + " times, not once: " + words);
            return innermost.stream().sorted(Comparator.comparingInt(node -> source.start(node.tree))).toList()
                    .get(Math.max(0, number - 1));
        }
    }

    /// The text of `DifyExec.java` and its syntax tree.
    static final class Source {
        final String text;
        private final CompilationUnitTree unit;
        private final Trees trees;
        private final JavacTask task;

        Source(String text) throws IOException {
            this.text = text;
            this.task = task(text, _ -> {}, List.of());
            this.unit = task.parse().iterator().next();
            this.trees = Trees.instance(task);
        }

        /// @param folder for the class files; empty: only checks
        /// @return the compiler's errors
        static List<String> compile(String text, Optional<Path> folder) throws IOException {
            var problems = new DiagnosticCollector<JavaFileObject>();
            var task = task(text, problems, folder.map(to -> List.of("-d", to.toString())).orElse(List.of()));
            if (folder.isPresent()) task.generate();
            else task.analyze();
            return problems.getDiagnostics().stream().filter(problem -> problem.getKind() == Diagnostic.Kind.ERROR)
                    .map(problem -> problem.getMessage(Locale.ENGLISH)).toList();
        }

        private static JavacTask task(String text, DiagnosticListener<JavaFileObject> problems,
                List<String> options) {
            var file = new SimpleJavaFileObject(URI.create("string:///DifyExec.java"), JavaFileObject.Kind.SOURCE) {
                @Override
                public CharSequence getCharContent(boolean ignoreEncodingErrors) {
                    return text;
                }
            };
            var all = new ArrayList<>(List.of("-proc:none", "-parameters", "-cp",
                    System.getProperty("java.class.path")));
            all.addAll(options);
            return (JavacTask) ToolProvider.getSystemJavaCompiler().getTask(Writer.nullWriter(), null, problems, all,
                    null, List.of(file));
        }

        int start(Tree tree) {
            return (int) trees.getSourcePositions().getStartPosition(unit, tree);
        }

        int end(Tree tree) {
            return (int) trees.getSourcePositions().getEndPosition(unit, tree);
        }

        private String text(Tree tree) {
            return text.substring(start(tree), end(tree));
        }

        /// Replaces a node by a text with parts of it, such as `{right}` or `{1.receiver}`.
        private Edit edit(Node node, String template) {
            var filled = Pattern.compile("\\{([a-z0-9][a-z0-9.]*)}").matcher(template).replaceAll(match ->
                    Matcher.quoteReplacement(text(part(node.tree, match.group(1)))));
            return new Edit(start(node.tree), end(node.tree), filled);
        }

        private static Tree part(Tree tree, String path) {
            if (path.equals("it")) return tree;
            var part = tree;
            for (var name : path.split("\\.")) {
                part = parts(part).get(name);
                if (part == null) throw new IllegalStateException("no part {" + path + "}");
            }
            return part;
        }

        private static Map<String, Tree> parts(Tree tree) {
            return switch (tree) {
                case IfTree it -> Map.of("condition", it.getCondition(), "then", it.getThenStatement());
                case ConditionalExpressionTree it -> Map.of("condition", it.getCondition(),
                        "then", it.getTrueExpression(), "else", it.getFalseExpression());
                case BinaryTree it -> Map.of("left", it.getLeftOperand(), "right", it.getRightOperand());
                case UnaryTree it -> Map.of("1", it.getExpression());
                case ReturnTree it -> Map.of("value", it.getExpression());
                case ArrayAccessTree it -> Map.of("index", it.getIndex());
                case LambdaExpressionTree it -> Map.of("body", it.getBody());
                case NewClassTree it -> numbered(it.getArguments());
                case MethodInvocationTree it -> {
                    var parts = new HashMap<>(numbered(it.getArguments()));
                    if (it.getMethodSelect() instanceof MemberSelectTree select)
                        parts.put("receiver", select.getExpression());
                    yield parts;
                }
                default -> Map.of();
            };
        }

        private static Map<String, Tree> numbered(List<? extends Tree> arguments) {
            return IntStream.range(0, arguments.size()).boxed()
                    .collect(Collectors.toMap(i -> String.valueOf(i + 1), arguments::get));
        }

        /// The nodes of a method and its overloads.
        private List<Node> nodes(String place) {
            int dot = place.lastIndexOf('.');
            String type = "." + place.substring(0, Math.max(0, dot)), wanted = place.substring(dot + 1);
            var nodes = new ArrayList<Node>();
            new TreeScanner<Void, String>() {
                @Override
                public Void visitClass(ClassTree tree, String outer) {
                    if (tree.getSimpleName().isEmpty()) return super.visitClass(tree, outer);
                    var path = outer + "." + tree.getSimpleName();
                    for (var member : tree.getMembers()) {
                        var name = switch (member) {
                            case MethodTree method -> method.getName().toString().replace("<init>", "new");
                            case VariableTree field -> field.getName().toString();
                            default -> "";
                        };
                        if (path.endsWith(type) && name.equals(wanted)) collect(member, nodes);
                    }
                    return super.visitClass(tree, path);
                }
            }.scan(unit, "");
            if (nodes.isEmpty()) throw new IllegalStateException("no method or field " + place);
            return nodes;
        }

        private void collect(Tree member, List<Node> nodes) {
            new TreeScanner<Void, Void>() {
                @Override
                public Void scan(Tree tree, Void nothing) {
                    if (tree != null && start(tree) >= 0) nodesOf(tree, nodes);
                    return super.scan(tree, nothing);
                }
            }.scan(member, null);
        }

        private void nodesOf(Tree tree, List<Node> nodes) {
            if (tree instanceof StatementTree && !(tree instanceof BlockTree || tree instanceof VariableTree
                    || tree instanceof ClassTree)) nodes.add(new Node("statement", "", tree));
            switch (tree) {
                case IfTree it -> {
                    nodes.add(new Node("if", "", it));
                    nodes.add(condition(it.getCondition()));
                }
                case WhileLoopTree it -> nodes.add(condition(it.getCondition()));
                case ConditionalExpressionTree it -> {
                    nodes.add(new Node("choice", "", it));
                    nodes.add(condition(it.getCondition()));
                }
                case BinaryTree it -> {
                    var left = it.getLeftOperand();
                    var right = it.getRightOperand();
                    var operator = text.substring(end(left), start(right)).strip();
                    nodes.add(new Node("operator", operator, it));
                    if (operator.equals("&&") || operator.equals("||")) for (var operand : List.of(left, right))
                        nodes.add(new Node("operand", operator, operand));
                }
                case UnaryTree it -> {
                    var operator = text(it).replace(text(it.getExpression()), "");
                    nodes.add(new Node("operator", operator, it));
                }
                case MethodInvocationTree it -> nodes.add(new Node("call", called(it), it));
                case NewClassTree it -> nodes.add(new Node("new", text(it.getIdentifier()), it));
                case MemberReferenceTree it -> nodes.add(new Node("reference", it.getName().toString(), it));
                case LambdaExpressionTree it -> {
                    nodes.add(new Node("lambda", "", it));
                    if (it.getBody() instanceof ExpressionTree body) nodes.add(value(body));
                }
                case ReturnTree it -> {
                    nodes.add(new Node("return", "", it));
                    if (it.getExpression() != null) nodes.add(value(it.getExpression()));
                }
                case CaseTree it -> {
                    nodes.add(new Node("case", "", it));
                    if (it.getBody() instanceof ExpressionTree body) nodes.add(value(body));
                }
                case VariableTree it when it.getInitializer() != null -> nodes.add(value(it.getInitializer()));
                case AssignmentTree it -> nodes.add(value(it.getExpression()));
                case LiteralTree it -> nodes.add(new Node("literal", text(it), it));
                case IdentifierTree it when isConstant(it.getName()) ->
                        nodes.add(new Node("constant", it.getName().toString(), it));
                case MemberSelectTree it when isConstant(it.getIdentifier()) ->
                        nodes.add(new Node("constant", it.getIdentifier().toString(), it));
                default -> {} // its parts follow
            }
        }

        private static Node condition(ExpressionTree tree) {
            return new Node("condition", "", tree instanceof ParenthesizedTree bare ? bare.getExpression() : tree);
        }

        private static Node value(ExpressionTree tree) {
            return new Node("value", "", tree);
        }

        private static String called(MethodInvocationTree call) {
            return switch (call.getMethodSelect()) {
                case MemberSelectTree select -> select.getIdentifier().toString();
                case IdentifierTree name -> name.getName().toString();
                default -> "";
            };
        }

        /// Types, constants of an enum and other constants are written with a capital letter; variables are not.
        private static boolean isConstant(CharSequence name) {
            return !name.isEmpty() && Character.isUpperCase(name.charAt(0));
        }

        /// The methods, types, constants and literals in a tree, but no variables.
        private Set<String> names(Tree tree) {
            var nodes = new ArrayList<Node>();
            collect(tree, nodes);
            return nodes.stream().filter(node -> !node.name.isEmpty() && !node.kind.equals("operand"))
                    .map(Node::name).collect(Collectors.toSet());
        }
    }
}
